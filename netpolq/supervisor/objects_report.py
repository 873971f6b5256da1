"""The objects that an agent has, as a document in JSON lines: what the commands need that evaluate connections from it.

The supervisor serves it at GET /objects on the status socket. With `?end=…` (an address, NAMESPACE/POD or a domain name; several) it has
the objects that decide about flows between these ends (`netpolq.policy.excerpt`), without it all objects. The first line tells the version
of the policies, each further line has an object or the learned names of an address, and the last line the number of the others.

The objects are those of the newest published version, which the supervisor waits for. It copies references to all objects, then works in
steps of about a millisecond, so that the event loop goes on.
"""

import asyncio
import re

from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version

import orjson

from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.enums import DenyWith, Enforcement
from netpolq.model import Object, Rejection, domain_name
from netpolq.policy.excerpt import Ends, Part, PodKey, everything, excerpt
from netpolq.store import Store
from netpolq.supervisor.object_codec import decoded, encoded
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout import Rollout

OBJECTS_PATH = "/objects"
END = "end"
MAX_ENDS = 8

_SETTLE_S = 1.0
"""Longest wait for a version that has all changes. Where changes never pause, the document says that it is ahead of the version."""

_LINES_PER_STEP = 200
_NAMES, _LAST = "names", "last"
_POD = re.compile(r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)")
_NAME = re.compile(r"[A-Za-z0-9_](?:[-A-Za-z0-9_.]{0,252}[A-Za-z0-9_])?\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the document is of. `version`: of netpolq. `node`: of the agent. `compiled`: false until this supervisor has compiled.

    `snapshot_version`: the newest published version, `in_force_version`: the one in force, as in the status document.
    `is_ahead`: the objects have changes that no version has yet. `deny_with`, `enforcement`: what a denial does, and
    whether policies are enforced, where no annotation says.
    """

    version: str
    node: str
    compiled: bool
    snapshot_version: int
    in_force_version: int
    is_ahead: bool
    deny_with: str
    enforcement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """The whole document. `names`: the learned names by address."""

    header: Header
    objects: tuple[Object, ...]
    names: Mapping[AddressKey, frozenset[str]]
    rejections: tuple[Rejection, ...]


class ObjectsReport:
    """Writes documents. `node`, `deny_with`, `enforcement`: see `Header`."""

    def __init__(
        self, *, store: Store, progress: Progress, node: str, deny_with: DenyWith, enforcement: Enforcement = Enforcement.ENFORCE
    ) -> None:
        self._enforcement = enforcement
        self._store = store
        self._progress = progress
        self._node = node
        self._deny_with = deny_with

    def document(self, query: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
        """Return the document that a query asks for, in pieces. Raises `ValueError` for a query that cannot be read."""
        ends = parse_query(query)
        return self._pieces(ends)

    async def _pieces(self, ends: Ends | None) -> AsyncIterator[bytes]:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await self._progress.until(_is_settled)
        # Nothing is awaited until both have their copies of the present state.
        header, rejections = self._header(), self._store.rejections
        part = everything(self._store) if ends is None else await _in_steps(excerpt(self._store, ends))
        yield orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE)
        count = 0
        lines: list[bytes] = []
        for line in _lines(part, rejections):
            lines.append(line)
            count += 1
            if len(lines) == _LINES_PER_STEP:
                yield b"\n".join((*lines, b""))
                lines.clear()
                await asyncio.sleep(0)
        yield b"\n".join((*lines, orjson.dumps([_LAST, count]), b""))

    def _header(self) -> Header:
        rollout = self._progress.rollout
        return Header(
            version=version("netpolq"),
            node=self._node,
            compiled=not rollout.next_is_complete,
            snapshot_version=rollout.version,
            in_force_version=rollout.in_force_version,
            is_ahead=not _is_settled(rollout),
            deny_with=self._deny_with.value,
            enforcement=self._enforcement.value,
        )


async def _in_steps(steps: Generator[None, None, Part]) -> Part:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            part: Part = end.value
            return part
        await asyncio.sleep(0)


def _is_settled(rollout: Rollout) -> bool:
    """Whether the newest version has all changes of the store."""
    return not rollout.next_is_complete and rollout.noticed_ns is None and rollout.compiling_ns is None


def _lines(part: Part, rejections: Iterable[Rejection]) -> Iterator[bytes]:
    yield from map(encoded, part.objects)
    for address, names in part.names.items():
        yield orjson.dumps([_NAMES, [format_address(address), *sorted(names)]])
    yield from map(encoded, rejections)


def parse_query(query: Sequence[tuple[str, str]]) -> Ends | None:
    """Return the ends of a query, None for all objects. Raises `ValueError` with what is allowed."""
    if not query:
        return None
    if unknown := next((name for name, _text in query if name != END), None):
        raise ValueError(f"parameter {unknown[:40]!r} does not exist; allowed: {END}")
    if len(query) > MAX_ENDS:
        raise ValueError(f"{len(query)} parameters; allowed: at most {MAX_ENDS}")
    addresses: set[AddressKey] = set()
    pods: set[PodKey] = set()
    names: set[str] = set()
    for _name, text in query:
        if pod := _POD.fullmatch(text):
            pods.add(PodKey(pod[1], pod[2]))
            continue
        try:
            addresses.add(parse_address(text))
        except ValueError:
            if not _NAME.fullmatch(text):
                raise ValueError(f"{END}={text[:40]!r}: allowed: an IP address, NAMESPACE/POD or a domain name") from None
            names.add(domain_name(text))
    return Ends(frozenset(addresses), frozenset(pods), frozenset(names))


def decode(data: bytes) -> Objects:
    """Return the document in bytes. Raises `ValueError` for another one, and for one that is not complete."""
    first, *lines = data.removesuffix(b"\n").split(b"\n")
    objects: list[Object] = []
    rejections: list[Rejection] = []
    names: dict[AddressKey, frozenset[str]] = {}
    try:
        header = Header(**orjson.loads(first))
        *items, (last, count) = map(orjson.loads, lines)
        for kind, value in items:
            if kind == _NAMES:
                names[parse_address(value[0])] = frozenset(map(str, value[1:]))
                continue
            item = decoded(kind, value)
            if isinstance(item, Rejection):
                rejections.append(item)
            else:
                objects.append(item)
    except (TypeError, IndexError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not a document of objects: {error}") from error
    if (last, count) != (_LAST, len(items)):
        raise ValueError("the document of objects is not complete")
    return Objects(header=header, objects=tuple(objects), names=names, rejections=tuple(rejections))
