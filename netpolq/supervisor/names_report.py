"""Learned names as `netpolq names` shows them: the document that the supervisor serves at GET /names on the status socket, and its text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from netpolq.addresses import format_address
from netpolq.logs import one_line
from netpolq.model import ClusterNetworkPolicy, DomainPeer
from netpolq.names.table import Pair
from netpolq.policy import domain_names
from netpolq.text_table import columns

NAMES_PATH = "/names"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedAddress:
    """An address of a name. `left_s`: seconds until it goes. `in_grace_period`: its time to live is over."""

    address: str
    left_s: float
    in_grace_period: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedName:
    """A name with its addresses. `patterns`: those of policies that match it; `policies`: qualified names of these policies."""

    name: str
    addresses: list[LearnedAddress]
    patterns: list[str]
    policies: list[str]


def learned_names(
    pairs: Iterable[Pair], policies: Iterable[ClusterNetworkPolicy], *, grace_s: float, now_s: float
) -> list[LearnedName]:
    """The pairs of a table by name, in order of names and addresses. `now_s`: of the clock of the table."""
    users = _users(policies)
    by_name: dict[str, list[Pair]] = {}
    for pair in sorted(pairs):
        by_name.setdefault(pair.name, []).append(pair)
    found = []
    for name, of_name in by_name.items():
        patterns = sorted(pattern for pattern in domain_names.patterns_of(name) if pattern in users)
        found.append(
            LearnedName(
                name=name,
                addresses=[
                    LearnedAddress(
                        address=format_address(pair.address),
                        left_s=round(max(pair.expiry_s + grace_s - now_s, 0.0), 1),
                        in_grace_period=pair.expiry_s <= now_s,
                    )
                    for pair in of_name
                ],
                patterns=patterns,
                policies=sorted({policy for pattern in patterns for policy in users[pattern]}),
            )
        )
    return found


def _users(policies: Iterable[ClusterNetworkPolicy]) -> dict[str, set[str]]:
    """The qualified names of the policies that have a pattern."""
    users: dict[str, set[str]] = {}
    for policy in policies:
        for rule in policy.egress:
            for peer in rule.peers or ():
                if isinstance(peer, DomainPeer):
                    users.setdefault(peer.pattern, set()).add(policy.qualified_name)
    return users


def encode(names: list[LearnedName]) -> bytes:
    """The document as JSON."""
    return orjson.dumps({"names": names})


def decode(data: bytes) -> list[LearnedName]:
    """The names in a document. Raises `ValueError` for other fields than those of this version."""
    try:
        return [
            LearnedName(**{**entry, "addresses": [LearnedAddress(**address) for address in entry["addresses"]]})
            for entry in orjson.loads(data)["names"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a document of names: {error}") from error


def matching(names: list[LearnedName], pattern: str) -> list[LearnedName]:
    """The names that a pattern matches: a name, or `*.` and a name. Empty: all."""
    return [one for one in names if not pattern or domain_names.matches(pattern, one.name)]


def render_json(names: list[LearnedName]) -> str:
    """The document as indented JSON, without the last line end."""
    return orjson.dumps({"names": names}, option=orjson.OPT_INDENT_2).decode()


def render_text(names: list[LearnedName]) -> str:
    """A line for each address, without the last line end."""
    rows = [("NAME", "ADDRESS", "TIME LEFT", "POLICIES"), *(row for name in names for row in _rows(name))]
    return "\n".join(map(one_line, columns(rows)))


def _rows(name: LearnedName) -> Iterator[tuple[str, str, str, str]]:
    for address in name.addresses:
        left = f"{address.left_s:.0f} s{' (grace period)' if address.in_grace_period else ''}"
        yield name.name, address.address, left, ", ".join(name.policies)
