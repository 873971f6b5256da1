"""Fuzzing with atheris: `python -m tests.fuzz`, guided by the coverage of the project.

Exit code 0: no failure within the time limit; otherwise the output names a file with the failing input.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
NAMES = ("packet", "snapshot", "words", "channel", "cni-result", "dns", "dns-tcp")
_MARGIN_S = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz each target in a separate process. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "target", nargs="*", choices=[*NAMES, []], help=f"what to fuzz, of {', '.join(NAMES)}; all if none is given"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="where what breaks something is put")
    options = parser.parse_args(arguments)
    options.findings.mkdir(parents=True, exist_ok=True)
    return max(_fuzz(name, options.seconds, options.findings) for name in options.target or NAMES)


def _fuzz(name: str, seconds: int, findings: Path) -> int:
    print(f"fuzz: {name} for {seconds} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="npq-fuzz-") as scratch:
        grown = Path(scratch, "corpus")
        grown.mkdir()
        words = [f"-max_total_time={seconds}", "-max_len=512", "-verbosity=0", "-print_final_stats=1"]
        words += [f"-artifact_prefix={findings}/{name}-", str(grown), str(CORPUS / name)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.run", name, *words],
            check=False,
            timeout=seconds + _MARGIN_S,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": scratch},
        )
    runs = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    print(
        f"fuzz: {name}: {runs[0] if runs else 'no'} inputs, {'nothing found' if done.returncode == 0 else 'BROKEN'}", flush=True
    )
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-3000:])
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
