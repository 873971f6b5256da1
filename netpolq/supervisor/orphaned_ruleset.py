"""Ruleset without an agent: what `netpolq status` shows when no agent answers.

The table stays when an agent ends, and its counters go on: they count the packets that passed without a verdict since.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from netpolq.dataplane.ruleset import TABLE
from netpolq.dataplane.table_state import read_chains, read_counters, read_set_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """The table in this network namespace. `counters`: packets by name."""

    table: str
    chains: int
    sets: int
    counters: Mapping[str, int]


def find() -> Leftover | None:
    """The leftover table, or None without one. Raises `PermissionError` without CAP_NET_ADMIN, and `OSError`."""
    chains, sets = read_chains(), read_set_names()
    if not chains and not sets:
        return None
    return Leftover(table=f"inet {TABLE}", chains=len(chains), sets=len(sets), counters=read_counters())


def render_text(leftover: Leftover) -> str:
    """The table as text, without the last line end."""
    lines = [
        ("agent", "none"),
        (
            "ruleset",
            f"table {leftover.table} is left: {leftover.chains} chains, {leftover.sets} sets; `netpolq cleanup` removes it",
        ),
        *((f"counter {name}", f"{packets:,} packets") for name, packets in sorted(leftover.counters.items())),
    ]
    width = max(len(name) for name, _text in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def render_json(leftover: Leftover) -> str:
    """The table as indented JSON, without the last line end. `ready` is false, as in the document of an agent that is not ready."""
    return orjson.dumps({"ready": False, "leftover": leftover}, option=orjson.OPT_INDENT_2).decode()
