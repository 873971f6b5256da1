"""Outputs of flows that need no terminal: JSON lines, the agents' answers as they are, plain text, and merged flows for other commands.

An output gets heads and records as they arrive, remarks for the user, a `tick` about once a second while it follows, and `close` at
the end. Records are lines of JSON as the agent has served them.
"""

import select
import sys
import time

from collections.abc import Iterator, Sequence
from typing import Protocol

from netpolq.flow_view.cells import cell as cell_text
from netpolq.flow_view.cells import columns
from netpolq.flow_view.merge import MAX_FLOWS, MergedFlow, MergedFlows, total
from netpolq.flow_view.summary import Summary
from netpolq.flows import record as flow_record
from netpolq.flows.record import FlowRecord
from netpolq.logs import one_line
from netpolq.supervisor.flows_report import FlowsHead
from netpolq.text_table import columns as aligned


class Output(Protocol):
    """What shows flows. `origin`: the agent that has sent them, for its head."""

    summary: Summary

    def head(self, origin: str, head: FlowsHead, line: bytes) -> None:
        """Take the head of an answer."""
        ...

    def record(self, line: bytes) -> None:
        """Take a record. Raises `ValueError` if it is none."""
        ...

    def remark(self, text: str) -> None:
        """Tell the user about a change: an agent is gone, or is back."""
        ...

    def tick(self) -> None:
        """Show what has come. Raises `BrokenPipeError` if the reader is gone."""
        ...

    def close(self, since_s: float | None) -> None:
        """Show the rest. `since_s` as in `Summary.lines`."""
        ...


class _Lines:
    """Records as served, one line each."""

    def __init__(self) -> None:
        self.summary = Summary()

    def record(self, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")

    def remark(self, text: str) -> None:
        remark(text)

    def tick(self) -> None:
        sys.stdout.buffer.flush()
        _raise_if_reader_is_gone()

    def close(self, since_s: float | None) -> None:
        sys.stdout.buffer.flush()


class JsonLines(_Lines):
    """One line of JSON for each record, as served. What is missing goes to standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._told_missed = 0

    def head(self, origin: str, head: FlowsHead, line: bytes) -> None:
        self.summary.add(origin, head)
        if self.summary.missed > self._told_missed:
            self.remark(f"{self.summary.missed - self._told_missed} increments came too fast and are not shown")
            self._told_missed = self.summary.missed

    def close(self, since_s: float | None) -> None:
        super().close(since_s)
        for line in self.summary.lines(since_s, time.time()):
            remark(line)


class RawLines(_Lines):
    """The agent's answers as they are, heads included: what another `netpolq flows` reads through the API server."""

    def head(self, origin: str, head: FlowsHead, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")


class Collected:
    """Merged flows for a command that goes on with them. What is missing goes to standard error."""

    def __init__(self) -> None:
        self.summary = Summary()
        self._merged = MergedFlows()

    def head(self, origin: str, head: FlowsHead, line: bytes) -> None:
        self.summary.add(origin, head)

    def record(self, line: bytes) -> None:
        self._merged.add(flow_record.decode(line))

    def remark(self, text: str) -> None:
        remark(text)

    def tick(self) -> None:
        return

    def close(self, since_s: float | None) -> None:
        if self._merged.left_out:
            remark(f"{self._merged.left_out} older flows are left out: more than {MAX_FLOWS:,} are different")
        for line in self.summary.lines(since_s, time.time()):
            remark(line)

    def records(self) -> Iterator[FlowRecord]:
        """A record for each flow, of all its windows."""
        return (merged.as_record() for merged in self._merged.newest_last())


class MergedTable:
    """What all tables have in common: a row for each flow. `max_flows`: see `MergedFlows`."""

    def __init__(self, *, is_wide: bool, is_cluster: bool, max_flows: int = MAX_FLOWS) -> None:
        self.summary = Summary()
        self._columns = columns(is_wide=is_wide, is_cluster=is_cluster)
        self._merged = MergedFlows(max_flows)

    def head(self, origin: str, head: FlowsHead, line: bytes) -> None:
        self.summary.add(origin, head)

    def record(self, line: bytes) -> None:
        self._merged.add(flow_record.decode(line))

    def remark(self, text: str) -> None:
        remark(text)

    def tick(self) -> None:
        return


class PlainTable(MergedTable):
    """A table of all flows at the end, and what is missing below it."""

    def close(self, since_s: float | None) -> None:
        now_s, flows = time.time(), self._merged.newest_last()
        if flows:
            rows = [[column.title for column in self._columns]]
            rows += [[cell_text(column, merged, now_s) for column in self._columns] for merged in flows]
            _write("\n".join(aligned(rows, align="".join(">" if column.is_number else "<" for column in self._columns))))
        _write("\n".join(footer(flows, self._merged, self.summary, since_s, now_s)))


class PlainLines:
    """A line of text for each record as it comes."""

    def __init__(self, *, is_wide: bool, is_cluster: bool) -> None:
        self.summary = Summary()
        self._columns = columns(is_wide=is_wide, is_cluster=is_cluster)

    def head(self, origin: str, head: FlowsHead, line: bytes) -> None:
        self.summary.add(origin, head)

    def record(self, line: bytes) -> None:
        found = flow_record.decode(line)
        merged, now_s = MergedFlow(found, found.flow), time.time()
        _write("  ".join(cell_text(column, merged, now_s) for column in self._columns))

    def remark(self, text: str) -> None:
        remark(text)

    def tick(self) -> None:
        sys.stdout.flush()
        _raise_if_reader_is_gone()

    def close(self, since_s: float | None) -> None:
        sys.stdout.flush()
        for line in self.summary.lines(since_s, time.time()):
            remark(line)


def remark(text: str) -> None:
    """Write a line for the user to standard error."""
    sys.stderr.write(f"netpolq: {one_line(text)}\n")
    sys.stderr.flush()


def _write(text: str) -> None:
    """Write lines to standard output. Characters that its encoding lacks are replaced: a latin-1 terminal has no arrows."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def footer(flows: Sequence[MergedFlow], merged: MergedFlows, summary: Summary, since_s: float | None, now_s: float) -> list[str]:
    """The lines below a table."""
    agents = f" of {summary.agents} agents" if summary.agents > 1 else ""
    lines = [f"{_counted(len(flows), 'flow')}{agents}, {_counted(total(flows), 'connection')}" if flows else f"no flows{agents}"]
    if merged.left_out:
        lines.append(f"{merged.left_out} older flows are left out; narrow the question down, or use -o json")
    return [*lines, *summary.lines(since_s, now_s)]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _raise_if_reader_is_gone() -> None:
    """A pipe without a reader raises at the next write, and with filters the next record may be hours away."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    poller = select.poll()
    poller.register(descriptor, 0)
    if any(event & select.POLLERR for _descriptor, event in poller.poll(0)):
        raise BrokenPipeError
