"""The expected connectivity, derived by hand from the policies in `config/demo`. No code of the project computes it.

A cell shows TCP, UDP and ICMP in this order: ✓ reached over IPv4 and IPv6, ✗ refused, 4 reached over IPv4 only.
"""

COLUMNS = ("frontend", "backend", "db", "dns", "monitor", "debug", "outside", "node", "metadata")
"""The last part of each name; pods belong to shop (the first three) and ops."""

Cells = dict[tuple[str, str], str]
"""(from, to) → cell."""


def _table(text: str) -> Cells:
    cells: Cells = {}
    for line in text.strip().splitlines():
        source, *row = line.split()
        cells |= {(source, destination): cell for destination, cell in zip(COLUMNS, row, strict=True) if cell != "·"}
    return cells


WITHOUT_POLICIES = {(source, destination): "✓✓✓" for source in COLUMNS for destination in COLUMNS if source != destination}

WITH_POLICIES = _table("""
    frontend   ·    ✓✗✗  ✗✗✗  ✗✓✗  ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗
    backend   ✗✗✗    ·   ✓✗✗  ✗✓✗  ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗  ✓✗✗
    db        ✗✗✗   ✗✗✗   ·   ✗✓✗  ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗
    dns       ✗✗✗   ✗✗✗  ✗✗✗   ·   ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗  ✗✗✗
    monitor   ✓✓✓   ✓✓✓  ✓✓✓  ✗✓✗   ·   ✓✓✓  ✓✓✓  ✓✓✓  ✓✓✓
    debug     ✗✗✗   ✗✗✗  ✗✗✗  ✗✓✗  ✓✓✓   ·   ✓✓✓  ✓✓✓  ✓✓✓
    outside   4✗✗   ✗✗✗  ✗✗✗  ✗✗✗  ✓✓✓  ✓✓✓   ·   ✓✓✓  ✓✓✓
    node      ✓✓✓   ✓✓✓  ✓✓✓  ✓✓✓  ✓✓✓  ✓✓✓  ✓✓✓   ·   ✓✓✓
    metadata  4✗✗   ✗✗✗  ✗✗✗  ✗✗✗  ✓✓✓  ✓✓✓  ✓✓✓  ✓✓✓   ·
""")

WITH_CLUSTER_POLICIES = WITH_POLICIES | {("backend", "metadata"): "✗✗✗", ("debug", "monitor"): "✗✗✗"}

AFTER_EDIT = WITH_CLUSTER_POLICIES | {("backend", "db"): "✗✗✗", ("debug", "db"): "✓✗✗"}
