"""The parameters of list and watch requests, checked as the real server checks them.

Source: k8s.io/apimachinery/pkg/apis/meta/internalversion/validation; "Resource versions" in the API concepts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from tests.support.apiserver import status

_TRUE = ("true", "1", "True")
_NOT_SERVED = ("fieldSelector", "labelSelector")


class WatchListSupport(Enum):
    """Treatment of `sendInitialEvents` by the server."""

    FULL = auto()
    REFUSED = auto()
    """The server answers 422, as with the feature gate switched off."""
    IGNORED = auto()
    """The server ignores it, as before the parameter existed: the initial events of the watch have no end marker."""


class Match(Enum):
    """Values of `resourceVersionMatch`."""

    UNSET = ""
    EXACT = "Exact"
    NOT_OLDER_THAN = "NotOlderThan"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Options of a list. `resource_version`: None if not given. `limit` 0: no limit."""

    resource_version: int | None
    match: Match
    limit: int
    continue_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """Options of a watch. `resource_version`: None if not given. `timeout_s` 0: the server's default."""

    resource_version: int | None
    bookmarks: bool
    initial_events: bool
    timeout_s: int


def list_options(query: Mapping[str, str]) -> ListOptions:
    """The options of a list request. Raises `ApiError`."""
    _check_served(query)
    version, match = _version(query), _match(query)
    token = query.get("continue", "")
    forbidden = []
    if query.get("sendInitialEvents"):
        forbidden.append(("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if match is not Match.UNSET and version is None:
        forbidden.append(("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"))
    if match is not Match.UNSET and token:
        forbidden.append(("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
    if match is Match.EXACT and version == 0:
        forbidden.append(("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if forbidden:
        raise status.invalid_options(forbidden)
    if token and version:
        raise status.bad_request("specifying resource version is not allowed when using continue")
    return ListOptions(resource_version=version, match=match, limit=_number(query, "limit") or 0, continue_token=token)


def watch_options(query: Mapping[str, str], support: WatchListSupport) -> WatchOptions:
    """The options of a watch request. Raises `ApiError`."""
    _check_served(query)
    match = _match(query)
    initial_events = query.get("sendInitialEvents")
    forbidden = []
    if support is not WatchListSupport.IGNORED:
        if initial_events and match is not Match.NOT_OLDER_THAN:
            why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            forbidden.append(("resourceVersionMatch", why))
        if initial_events and support is WatchListSupport.REFUSED:
            why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            forbidden.append(("sendInitialEvents", why))
        if match is not Match.UNSET and not initial_events:
            why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            forbidden.append(("resourceVersionMatch", why))
    if forbidden:
        raise status.invalid_options(forbidden)
    return WatchOptions(
        resource_version=_version(query),
        bookmarks=query.get("allowWatchBookmarks") in _TRUE,
        initial_events=initial_events in _TRUE and support is WatchListSupport.FULL,
        timeout_s=_number(query, "timeoutSeconds") or 0,
    )


def is_watch(query: Mapping[str, str]) -> bool:
    """Whether a request for a collection is a watch."""
    return query.get("watch") in _TRUE


def _check_served(query: Mapping[str, str]) -> None:
    """Refuse selectors: an answer that ignores them would mislead a test."""
    if used := [name for name in _NOT_SERVED if query.get(name)]:
        raise status.bad_request(f"this server does not select: {', '.join(used)}")


def _match(query: Mapping[str, str]) -> Match:
    try:
        return Match(query.get("resourceVersionMatch", ""))
    except ValueError as error:
        raise status.invalid_options([("resourceVersionMatch", str(error))]) from error


def _version(query: Mapping[str, str]) -> int | None:
    return _number(query, "resourceVersion")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise status.bad_request(f"{name}: Invalid value: {text!r}")
    return int(text)
