"""Reads of the table `inet netpolq` whose failures are errors for the operator.

Every function blocks and may raise `PrivilegeError` or `RulesetError`.
"""

from netpolq.dataplane import table_state
from netpolq.dataplane.kernel_errors import explained
from netpolq.dataplane.ruleset_names import TABLE
from netpolq.dataplane.table_state import KnownElements, TableState


def read_state(known: KnownElements) -> TableState:
    """The table as it is now; see `table_state.read_state`."""
    with explained():
        return table_state.read_state(known)


def read_chains() -> dict[str, bool]:
    """The table's chains, and for each whether its policy is drop."""
    with explained():
        return table_state.read_chains()


def read_generation() -> int:
    """The generation of the ruleset of this network namespace."""
    with explained():
        return table_state.read_generation()


def read_chain_uses() -> dict[str, int]:
    """The table's chains, with the number of rules in each and jumps to it. Empty if there is no table."""
    with explained():
        return table_state.read_chain_uses(TABLE)


def read_counters() -> dict[str, int]:
    """Packets by named counter of the table."""
    with explained():
        return table_state.read_counters()
