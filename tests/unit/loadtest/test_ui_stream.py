"""The load test of the page's streams, small: every client gets changes, and all of it is printed."""

import pytest

from loadtest import ui_stream


async def test_clients_follow_played_agents(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_stream, "_SLOW_S", 0.1)
    followed = await ui_stream.measure(agents=3, flows=40, clients=2, seconds=8)
    assert [one.name for one in followed] == ["map", "flows", "map, read slowly"]
    for one in followed:
        assert one.state_bytes > 0
        assert one.behind_s
    printed = capsys.readouterr().out
    assert printed.startswith("3 agents with 40 flows each")
    assert "map, read slowly: " in printed
