"""Reader of the pod ranges in the node's CNI configuration.

It reads all files that the container runtime reads (`*.conf`, `*.conflist`, `*.json` of the directory): the ranges of host-local IPAM
(`subnet`, `ranges`), the pools of Calico's IPAM that are CIDR blocks, and the file in which flannel stores its subnet.
Source: CNI specification 1.1; host-local IPAM plugin; flannel CNI plugin (`subnetFile`).
"""

from collections.abc import Iterator
from pathlib import Path

from netpolq.hold.ranges import PodRange, parse_range

CONF_DIR = Path("/etc/cni/net.d")
FLANNEL_SUBNET_FILE = Path("/run/flannel/subnet.env")
"""Source: flannel's documentation; a plugin entry of type flannel may name another in `subnetFile`."""

_SUFFIXES = frozenset({".conf", ".conflist", ".json"})
_FLANNEL_KEYS = frozenset({"FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"})
_CALICO_KEYS = ("ipv4_pools", "ipv6_pools")
_MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 32


class Found:
    """The ranges in a directory. `problems`: a sentence for each part that cannot be used, which names the file."""

    def __init__(self) -> None:
        self.ranges: list[PodRange] = []
        self.problems: list[str] = []


def read(conf_dir: Path = CONF_DIR) -> Found:
    """The pod ranges in a directory of CNI configuration. Never raises: unreadable parts are problems in the result."""
    found = Found()
    try:
        paths = sorted(path for path in conf_dir.iterdir() if path.suffix in _SUFFIXES)
    except OSError as error:
        found.problems.append(f"{conf_dir}: {error.strerror}")
        return found
    if not paths:
        found.problems.append(f"{conf_dir}: no CNI configuration")
    for path in paths:
        _read_file(path, found)
    return found


def _read_file(path: Path, found: Found) -> None:
    import json  # noqa: PLC0415  # its import takes longer than all else, and is not needed if ranges are given

    text = _text(path, found)
    if text is None:
        return
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        found.problems.append(f"{path}: not JSON: {str(error)[:200]}")
        return
    before = len(found.ranges), len(found.problems)
    for plugin in _plugins(document):
        _read_plugin(path, plugin, found)
    if (len(found.ranges), len(found.problems)) == before:
        found.problems.append(f"{path}: contains no range of pod addresses")


def _plugins(value: object, depth: int = 0) -> Iterator[dict[object, object]]:
    """Every object at any depth: plugins, and those to which a plugin delegates (`delegate`, Multus' `delegates`)."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _plugins(inner, depth + 1)


def _read_plugin(path: Path, plugin: dict[object, object], found: Found) -> None:
    if plugin.get("type") == "flannel":
        file = plugin.get("subnetFile")
        _read_flannel(Path(file) if isinstance(file, str) and file else FLANNEL_SUBNET_FILE, found)
    ipam = plugin.get("ipam")
    if not isinstance(ipam, dict):
        return
    for text in _ipam_ranges(ipam):
        try:
            found.ranges.append(parse_range(text))
        except ValueError:
            found.problems.append(f"{path}: {text!r} is not a range of pod addresses")


def _ipam_ranges(ipam: dict[object, object]) -> Iterator[str]:
    ranges = ipam.get("ranges")
    sets = ranges if isinstance(ranges, list) else []
    # A set is a list of ranges; older configurations have ranges instead of sets.
    entries = [ipam, *(entry for one in sets for entry in (one if isinstance(one, list) else [one]))]
    for entry in entries:
        subnet = entry.get("subnet") if isinstance(entry, dict) else None
        if isinstance(subnet, str):
            yield subnet
    for key in _CALICO_KEYS:
        pools = ipam.get(key)
        yield from (pool for pool in pools if isinstance(pool, str)) if isinstance(pools, list) else ()


def _read_flannel(path: Path, found: Found) -> None:
    text = _text(path, found)
    if text is None:
        return
    before = len(found.ranges)
    for line in text.splitlines():
        key, _, value = line.strip().partition("=")
        if key not in _FLANNEL_KEYS:
            continue
        for part in value.strip("\"'").split(","):
            try:
                found.ranges.append(parse_range(part.strip()))
            except ValueError:
                found.problems.append(f"{path}: {key}={value!r} is not a range of pod addresses")
    if len(found.ranges) == before:
        found.problems.append(f"{path}: contains no range of pod addresses")


def _text(path: Path, found: Found) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode()
    except OSError as error:
        found.problems.append(f"{path}: {error.strerror}")
    except UnicodeDecodeError:
        found.problems.append(f"{path}: not UTF-8")
    return None
