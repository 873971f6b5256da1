"""Removal of everything that the agent leaves in the kernel: its tables, and the accepted bit of connections."""

from netpolq.dataplane import bridge_guard
from netpolq.dataplane.conntrack import clear_accepted
from netpolq.dataplane.kernel_errors import explained
from netpolq.dataplane.ruleset_names import TABLE
from netpolq.enums import ConnectionLabel
from netpolq.hold import ruleset as hold_ruleset
from netpolq.netlink import nftables


def cleanup(ct_label: int | None = None) -> list[str]:
    """Remove the tables and a hold, and clear the accepted bit of connections. Returns a line for each thing removed. Idempotent.

    The kernel drops packets that wait for a verdict. `ct_label`: the first bit of labels that the agent used; None: do not change
    connections. Without the accepted bit, an agent that is installed later evaluates these connections by the policies of its time.
    Blocks. Raises `PrivilegeError` or `RulesetError`.
    """
    removed = []
    removed += [f"nftables table inet {table}" for table in (TABLE, hold_ruleset.TABLE) if remove_table(table)]
    removed += [f"nftables table bridge {TABLE}"] if bridge_guard.remove() else []
    if ct_label is not None:
        with explained():
            forgotten = clear_accepted(ct_label + ConnectionLabel.ACCEPTED).cleared
        if forgotten:
            removed.append(f"accepted bit of the label of {forgotten} tracked connection{'s' if forgotten > 1 else ''}")
    return removed


@explained()
def remove_table(table: str) -> bool:
    """Remove an inet table in one transaction. Returns whether it was there. Blocks. Raises `PrivilegeError` or `RulesetError`."""
    return nftables.remove_table(table)
