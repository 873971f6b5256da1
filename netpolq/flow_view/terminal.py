"""Outputs of flows on a terminal: a table, and a table that follows. Names are shown as they are: no markup in them counts."""

import sys
import time

from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from netpolq.flow_view.cells import DESTINATION, REASON, SOURCE, VERDICT, Column, cell
from netpolq.flow_view.merge import MergedFlow
from netpolq.flow_view.outputs import MergedTable, footer
from netpolq.flows.record import FlowVerdict
from netpolq.logs import one_line

MAX_ROWS = 1000
"""Rows of a table on a terminal, the newest. More take seconds to lay out, and are past reading."""

_MAX_FOLLOWED = 5000
_MAX_REMARKS = 3
_AROUND = 3
"""Lines of a live table that are no rows: heading, rule and footer."""

_FLEXIBLE = frozenset((SOURCE, DESTINATION, REASON))

_STYLES = {
    FlowVerdict.ACCEPT: "green",
    FlowVerdict.DENY: "bold red",
    FlowVerdict.WOULD_DENY: "yellow",
    FlowVerdict.WOULD_ACCEPT: "yellow",
}


def _console() -> Console:
    # rich reads NO_COLOR and the size of the terminal itself.
    return Console(file=sys.stdout, markup=False, highlight=False, emoji=False)


def _table(chosen: Sequence[Column], flows: Sequence[MergedFlow], now_s: float, *, is_cut: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in chosen:
        # On a narrow terminal the columns of `_FLEXIBLE` give way. Their cells are cut, or continue on the next line.
        table.add_column(
            Text(column.title, no_wrap=True),
            justify="right" if column.is_number else "left",
            no_wrap=column not in _FLEXIBLE,
            overflow="ellipsis" if is_cut else "fold",
        )
    for merged in flows:
        style = _STYLES[merged.flow.verdict]
        table.add_row(
            *(
                Text(cell(column, merged, now_s), style if column is VERDICT else "", no_wrap=is_cut or column not in _FLEXIBLE)
                for column in chosen
            )
        )
    return table


class TerminalTable(MergedTable):
    """A table of the newest flows at the end, and what is missing below it."""

    def close(self, since_s: float | None) -> None:
        console, now_s, flows = _console(), time.time(), self._merged.newest_last()
        if flows:
            console.print(_table(self._columns, flows[-MAX_ROWS:], now_s, is_cut=False))
        if len(flows) > MAX_ROWS:
            older = f"{len(flows) - MAX_ROWS} older flows are not shown; narrow the question down, or use -o json"
            console.print(Text(older, "yellow"))
        first, *missing = footer(flows, self._merged, self.summary, since_s, now_s)
        console.print(Text(first, "dim"), *(Text(line, "yellow") for line in missing), sep="\n")


class LiveTable(MergedTable):
    """The flows that were seen last, the newest first, on the whole terminal. At the end the last state stays in the scrollback."""

    def __init__(self, *, is_wide: bool, is_cluster: bool) -> None:
        super().__init__(is_wide=is_wide, is_cluster=is_cluster, max_flows=_MAX_FOLLOWED)
        self._remarks: deque[str] = deque(maxlen=_MAX_REMARKS)
        self._console = _console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)

    def remark(self, text: str) -> None:
        now_s = time.time()
        self._remarks.append(f"{time.strftime('%H:%M:%S', time.localtime(now_s))} {one_line(text)}")

    def tick(self) -> None:
        if not self._live.is_started:
            self._live.start()
        self._live.update(self._frame(self._console.size.height, "Ctrl-C ends"), refresh=True)

    def close(self, since_s: float | None) -> None:
        if self._live.is_started:
            self._live.stop()
            self._console.print(self._frame(self._console.size.height, "ended"))

    def _frame(self, height: int, state: str) -> Group:
        now_s, flows = time.time(), self._merged.newest_last()
        first, *missing = footer(flows, self._merged, self.summary, None, now_s)
        below = [Text(f"{first}; {state}", "dim"), *(Text(line, "yellow") for line in (*missing, *self._remarks))]
        for line in below:
            line.no_wrap, line.overflow = True, "ellipsis"
        rows = flows[::-1][: max(height - len(below) - _AROUND, 1)]
        return Group(_table(self._columns, rows, now_s, is_cut=True), *below)
