"""The programs of this folder, compiled when they are first needed and again when their source is newer.

python -m loadtest.native.build        build all of them, print where they are
"""

import subprocess
import tempfile

from pathlib import Path

_HERE = Path(__file__).parent
_BUILT = _HERE / "build"  # not under version control
_COMPILE = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
_LIBRARIES: dict[str, tuple[str, ...]] = {"flows": (), "accept": ("-lnetfilter_queue",), "connects": ()}


def program(name: str) -> Path:
    """Path of a program, up to date. Raises `RuntimeError` with what the compiler said."""
    source, built = _HERE / f"{name}.c", _BUILT / name
    changed_ns = max(path.stat().st_mtime_ns for path in (source, *_HERE.glob("*.h")))
    if built.is_file() and built.stat().st_mtime_ns >= changed_ns:
        return built
    _BUILT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_BUILT) as folder:
        fresh = Path(folder) / name
        try:
            done = subprocess.run(
                [*_COMPILE, "-o", str(fresh), str(source), *_LIBRARIES[name]], capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise RuntimeError("gcc is missing; `make bench-setup` installs it") from error
        if done.returncode:
            raise RuntimeError(
                f"{source.name} does not compile; `make bench-setup` installs what it needs:\n{done.stderr.strip()}"
            )
        # In one step: processes that run the old program continue with it.
        fresh.replace(built)
    return built


def main() -> None:
    """Build everything."""
    for name in _LIBRARIES:
        print(program(name))


if __name__ == "__main__":
    main()
