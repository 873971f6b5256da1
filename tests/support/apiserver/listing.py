"""Lists: whole, or in pages that all show the state of one version."""

import base64

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from tests.support.apiserver import status
from tests.support.apiserver.options import ListOptions, Match
from tests.support.apiserver.resources import Resource
from tests.support.apiserver.store import CompactedError, Store

_PIECE_ITEMS = 256
_INCONSISTENT = -1
"""The version in a token that continues with the present state. Source: `encodeContinue` in k8s.io/apiserver/pkg/storage/continue.go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A list's answer. `head`: everything before the items."""

    head: bytes
    items: Sequence[bytes]

    @property
    def size_bytes(self) -> int:
        return len(self.head) + sum(map(len, self.items)) + len(self.items)

    def pieces(self) -> Iterator[bytes]:
        """The pieces of the body, in order."""
        yield self.head
        for start in range(0, len(self.items), _PIECE_ITEMS):
            yield (b"," if start else b"") + b",".join(self.items[start : start + _PIECE_ITEMS])
        yield b"]}\n"


def list_page(store: Store, resource: Resource, options: ListOptions) -> Page:
    """Answer a list. Raises `ApiError`."""
    if options.continue_token:
        version, start = _read_token(options.continue_token)
        if version == _INCONSISTENT:
            version = store.resource_version
        if version > store.resource_version:
            raise status.too_large(version, store.resource_version)
    else:
        version, start = _version_to_show(store, options), ""
    try:
        snapshot = store.snapshot(resource, version)
    except CompactedError:
        raise status.continue_expired(_token(_INCONSISTENT, start)) if start else status.list_too_old() from None
    first = bisect_left(snapshot.keys, start)
    # A list of "any version" comes from the watch cache, which does not page.
    limit = options.limit if options.continue_token or options.resource_version != 0 else 0
    end = min(first + limit, len(snapshot.keys)) if limit else len(snapshot.keys)
    metadata: dict[str, object] = {"resourceVersion": str(version)}
    if end < len(snapshot.keys):
        metadata["continue"] = _token(version, snapshot.keys[end])
        metadata["remainingItemCount"] = len(snapshot.keys) - end
    opening = b'{"kind":"%sList","apiVersion":"%s","metadata":' % (resource.kind.encode(), resource.api_version.encode())
    return Page(head=opening + orjson.dumps(metadata) + b',"items":[', items=snapshot.raws[first:end])


def _version_to_show(store: Store, options: ListOptions) -> int:
    """The version of the objects in the answer. Source: the table "resourceVersion semantics for get and list" of the API concepts."""
    wanted = options.resource_version or 0
    if wanted > store.resource_version:
        raise status.too_large(wanted, store.resource_version)
    if not wanted:
        return store.resource_version
    exact = options.match is Match.EXACT or (options.match is Match.UNSET and options.limit)
    return wanted if exact else store.resource_version


def _token(version: int, start: str) -> str:
    token = orjson.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start})
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def _read_token(token: str) -> tuple[int, str]:
    try:
        fields = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(fields["rv"]), str(fields["start"])
    except (ValueError, KeyError, TypeError) as error:
        raise status.bad_request(f"continue key is not valid: {error}") from error
