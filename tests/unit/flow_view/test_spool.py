"""Lines of several agents, merged by time."""

from hypothesis import given
from hypothesis import strategies as st

from netpolq.flow_view.spool import Spool, window_start
from netpolq.flows.record import encode
from tests.unit.flow_view.records import FLOW, record

AGENTS = st.lists(st.lists(st.integers(0, 500), max_size=80).map(sorted), max_size=5)


@given(AGENTS)
def test_lines_are_merged_by_window_and_none_is_lost(agents: list[list[int]]) -> None:
    lines = [
        (str(number), encode(record(FLOW._replace(port=number), window=window, node="x" * 300)))
        for number, windows in enumerate(agents)
        for window in windows
    ]
    with Spool() as spool:
        for origin, line in sorted(lines, key=lambda found: window_start(found[1])):
            spool.add(origin, line)
        merged = list(spool.merged())
    assert sorted(merged) == sorted(line for _origin, line in lines)
    assert [window_start(line) for line in merged] == sorted(window_start(line) for line in merged)
