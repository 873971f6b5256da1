"""The connectivity matrix: real connections between all hosts, and their presentation."""

from collections.abc import Iterator, Sequence
from itertools import product

from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Probe, Result
from tests.demo.expected import COLUMNS, Cells
from tests.demo.terminal import Style, Terminal

PROTOCOLS = ("TCP", "UDP", "ICMP")

_LABEL_WIDTH = 10
_SYMBOLS = {(True, True): "✓", (False, False): "✗", (True, False): "4", (False, True): "6"}
_STYLES = {"✓": Style.GOOD, "✗": Style.BAD, "4": Style.PART, "6": Style.PART}


def short(name: str) -> str:
    """Name of a column: the pod without its namespace."""
    return name.rpartition("/")[2]


def measure(box: Box) -> list[Result]:
    """Probe every host from every host: each service by TCP and UDP, and ping, over IPv4 and IPv6, all at the same time."""
    return box.probe(
        [
            Probe(source.name, destination.address(family), protocol, _port(destination, protocol))
            for source, destination in product(box.hosts.values(), repeat=2)
            if source is not destination
            for protocol, family in product(PROTOCOLS, (4, 6))
        ]
    )


def _port(host: Host, protocol: str) -> int:
    return dict(host.serves).get(protocol, 0)


def cells(box: Box, results: Sequence[Result]) -> Cells:
    """Return the matrix of the results."""
    owner = {address: host.name for host in box.hosts.values() for address in host.addresses}
    reached = {
        (
            short(result.probe.source),
            short(owner[result.probe.destination]),
            result.probe.protocol,
            family(result),
        ): result.reached
        for result in results
    }
    return {
        (source, destination): "".join(
            _SYMBOLS[reached[source, destination, protocol, 4], reached[source, destination, protocol, 6]]
            for protocol in PROTOCOLS
        )
        for source, destination in product(COLUMNS, repeat=2)
        if source != destination
    }


def family(result: Result) -> int:
    """Return the IP version of an attempt."""
    return 6 if ":" in result.probe.destination else 4


def differences(expected: Cells, found: Cells) -> Iterator[str]:
    """Return the differences from the expected matrix, as text."""
    for (source, destination), cell in expected.items():
        if found[source, destination] != cell:
            yield f"{source} → {destination}: {found[source, destination]}, but the policies say {cell}"


def show(terminal: Terminal, box: Box, found: Cells, before: Cells | None = None) -> None:
    """Print a matrix; brackets mark cells that differ from the previous matrix."""
    widths = {name: max(len(name), 5) + 2 for name in COLUMNS}
    ports = {short(name): str(_port(host, "TCP")) for name, host in box.hosts.items()}
    shop = sum(widths[name] for name in COLUMNS[:3])
    ops = sum(widths[name] for name in COLUMNS[3:6])
    margin = " " * (_LABEL_WIDTH + 2)
    namespaces = " shop ".ljust(shop, "─")[:-1] + "  ops ".ljust(ops + 1, "─")[:-1]
    names = "".join(f" {name}".ljust(width) for name, width in widths.items())
    services = "".join(f" :{ports[name]}".ljust(width) for name, width in widths.items())
    terminal.line(margin + terminal.styled(namespaces, Style.DIM))
    terminal.line(f"  {'from / to'.ljust(_LABEL_WIDTH)}" + terminal.styled(names.rstrip(), Style.BOLD))
    terminal.line(margin + terminal.styled(services.rstrip(), Style.DIM))
    for source in COLUMNS:
        row = "".join(
            _cell(terminal, found.get((source, destination)), before.get((source, destination)) if before else None, width)
            for destination, width in widths.items()
        )
        terminal.line(f"  {source.ljust(_LABEL_WIDTH)}{row}".rstrip())


def _cell(terminal: Terminal, cell: str | None, before: str | None, width: int) -> str:
    if cell is None:
        return terminal.styled("   ·".ljust(width)[:width], Style.DIM)
    if before is not None and before != cell:
        return terminal.styled(f"[{cell}]", Style.CHANGED) + " " * (width - 5)
    return " " + "".join(terminal.styled(symbol, _STYLES[symbol]) for symbol in cell) + " " * (width - 4)


def legend(terminal: Terminal) -> None:
    """Explain the cells."""
    good, bad, part = (terminal.styled(symbol, _STYLES[symbol]) for symbol in "✓✗4")
    terminal.line("  Each cell: TCP and UDP to the port at the head of the column, and ping (ICMP), in this order.")
    terminal.line(f"  {good} reached over IPv4 and IPv6   {bad} refused   {part} reached over IPv4 only   [ ] changed")
