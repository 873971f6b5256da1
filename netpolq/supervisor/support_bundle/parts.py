"""The parts of a support bundle: what the agent tells on its status socket, and what the machine has.

No part has contents of a kubeconfig, tokens, labels of pods, or variables of the environment other than those of `netpolq run`.
Each reader returns bytes. It raises `NetpolqError`, `SnapshotError`, `OSError`, `ValueError` or `subprocess.SubprocessError`.
"""

import os
import platform
import re
import stat
import subprocess

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import orjson

from netpolq.dataplane.ruleset import TABLE
from netpolq.enums import Direction
from netpolq.errors import NetpolqError
from netpolq.ipc.run_dir import SNAPSHOT_FILE
from netpolq.settings.definitions import OPTIONS
from netpolq.snapshot import memfd
from netpolq.snapshot.reader import SnapshotReader
from netpolq.supervisor.log_level import LOGLEVEL_PATH
from netpolq.supervisor.names_report import NAMES_PATH
from netpolq.supervisor.pods_report import PODS_PATH
from netpolq.supervisor.status import METRICS_PATH, SETTINGS_PATH, STATUS_PATH
from netpolq.supervisor.status_client import request

MAX_LOG_BYTES = 1 << 20
_COMMAND_LIMIT_S = 30.0
_PROC = Path("/proc")
_CONNTRACK = ("nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_buckets")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9._-]+")

Read = Callable[[], bytes]


def parts(run_dir: Path, environ: Mapping[str, str], log: Path | None) -> Iterator[tuple[str, Read]]:
    """The name and the reader of each part. `log`: a file of log lines, None: without them."""
    for name, path in (
        ("status.json", STATUS_PATH),
        ("pods.json", PODS_PATH),
        ("names.json", NAMES_PATH),
        ("settings.json", SETTINGS_PATH),
    ):
        yield name, partial(_document, run_dir, path)
    yield "metrics.txt", partial(request, run_dir, "GET", METRICS_PATH)
    yield "loglevel.txt", partial(request, run_dir, "GET", LOGLEVEL_PATH)
    yield "snapshot.json", partial(_snapshot, run_dir / SNAPSHOT_FILE)
    yield "ruleset.nft", partial(_output, "nft", "list", "table", "inet", TABLE)
    yield "ruleset.json", partial(_output, "nft", "-j", "list", "table", "inet", TABLE)
    yield "nfnetlink_queue.txt", (_PROC / "thread-self/net/netfilter/nfnetlink_queue").read_bytes
    yield "conntrack.txt", _conntrack
    yield "versions.json", _versions
    yield "environment.json", partial(_environment, environ)
    if log is not None:
        yield "agent.log", partial(_last_lines, log)


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _document(run_dir: Path, path: str) -> bytes:
    """A JSON document of the agent. Not decoded further, so that the bundle of another version has it, too."""
    return _json(orjson.loads(request(run_dir, "GET", path)))


def _snapshot(path: Path) -> bytes:
    """What the kept snapshot has, in numbers."""
    image, is_newest = memfd.read(path)
    reader = SnapshotReader(image)
    try:
        endpoints = list(reader.endpoints())
        isolating = Counter(
            direction for _key, *programs in endpoints for direction in Direction if reader.isolated_by(programs[direction])
        )
        return _json(
            {
                "version": reader.version,
                "created": datetime.fromtimestamp(reader.created_ns / 1e9, UTC).isoformat(timespec="seconds"),
                "is_newest": is_newest,
                "bytes": len(image),
                "sections": {
                    section.name.lower(): {"entries": info.entries, "bytes": info.length}
                    for section, info in reader.sections.items()
                },
                "selected_addresses": len(endpoints),
                "isolated_addresses": {direction.name.lower(): isolating[direction] for direction in Direction},
                "has_rejections": reader.has_rejections,
            }
        )
    finally:
        reader.close()


def _output(*argv: str) -> bytes:
    """The output of a program that changes nothing."""
    try:
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=_COMMAND_LIMIT_S, check=False)
    except FileNotFoundError as error:
        raise NetpolqError(f"the program {argv[0]} is not installed") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split()) or "no message"
        raise NetpolqError(f"{' '.join(argv)}: exit code {done.returncode}: {said}")
    return done.stdout


def _conntrack() -> bytes:
    """Number of connections and its limits, and the kernel's statistics, whose columns have names and are hexadecimal."""
    folder = _PROC / "sys/net/netfilter"
    values = "".join(f"{name} {(folder / name).read_text('ascii')}" for name in _CONNTRACK)
    return values.encode() + (_PROC / "thread-self/net/stat/nf_conntrack").read_bytes()


def _versions() -> bytes:
    nft = None
    with suppress(NetpolqError, OSError, subprocess.SubprocessError):
        nft = _output("nft", "--version").decode(errors="replace").strip()
    uname = os.uname()
    return _json(
        {
            "netpolq": version("netpolq"),
            "python": platform.python_version(),
            "kernel": uname.release,
            "kernel_build": uname.version,
            "machine": uname.machine,
            "nft": nft,
            "libraries": dict(_libraries()),
        }
    )


def _libraries() -> Iterator[tuple[str, str | None]]:
    """The version of each library that the package needs; None: not installed."""
    for requirement in requires("netpolq") or ():
        name = _DISTRIBUTION.match(requirement)
        if name is None or "extra ==" in requirement:
            continue
        try:
            yield name[0], version(name[0])
        except PackageNotFoundError:
            yield name[0], None


def _environment(environ: Mapping[str, str]) -> bytes:
    """The variables that `netpolq run` reads. A Service called netpolq sets others with the same prefix."""
    return _json({option.environment: environ[option.environment] for option in OPTIONS if option.environment in environ})


def _last_lines(path: Path) -> bytes:
    """The last lines of a file, at most `MAX_LOG_BYTES`, with a note if there are more."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise NetpolqError(f"{path}: not a regular file")
        start = max(found.st_size - MAX_LOG_BYTES, 0)
        file.seek(start)
        content = file.read(MAX_LOG_BYTES)
    if not start:
        return content
    lines = content.partition(b"\n")[2] or content  # the first line is cut, unless it is the only one
    return f"[cut: the last {len(lines)} of {found.st_size} bytes]\n".encode() + lines
