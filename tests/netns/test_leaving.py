"""State that stays when the agent ends, and its removal by `netpolq cleanup`."""

import re
import sys

import pytest

from loadtest.testbed.manifests import Body
from tests.support.cluster import Cluster
from tests.support.four_pods import EVERYTHING, cluster_with, ingress, reached, talk


def _admits_port_80() -> Body:
    return ingress({"ports": [{"port": 80}]})


def test_fail_closed_lets_nothing_new_through_once_the_agent_is_gone() -> None:
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([_admits_port_80()])
        assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}
        assert cluster.agent.stop() == 0
        for family in (4, 6):
            assert reached(cluster, "x/b", "x/a", family) == set()
            assert reached(cluster, "node", "x/a", family) == EVERYTHING
            assert reached(cluster, "x/b", "x/c", family) == EVERYTHING


def test_fail_closed_keeps_accepted_connections_once_the_agent_is_gone() -> None:
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([ingress({"ports": [{"protocol": "UDP", "port": 9000}]})])
        with talk(cluster, "x/b", "x/a", 4) as flow:
            flow.ask(b"before")
            assert flow.server.recv(64) == b"before"
            assert cluster.agent.stop() == 0
            flow.ask(b"after")
            assert flow.server.recv(64) == b"after"


def test_fail_open_lets_everything_through_once_the_agent_is_gone_and_counts_it() -> None:
    with cluster_with("--workers", "1") as cluster:
        cluster.apply([_admits_port_80()])
        assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}
        assert cluster.agent.stop() == 0
        for family in (4, 6):
            assert reached(cluster, "x/b", "x/a", family) == EVERYTHING
        listed = cluster.box.run("node", ["nft", "list", "counter", "inet", "netpolq", "unjudged"]).stdout
        counted = re.search(r"packets (\d+)", listed)
        assert counted is not None, listed
        assert int(counted[1]) >= 2 * len(EVERYTHING - {("TCP", 80)})


@pytest.mark.parametrize("flag", ["--fail-open=true", "--fail-open=false"])
def test_a_restarted_agent_continues_where_the_last_one_stopped(flag: str) -> None:
    with cluster_with("--workers", "1", flag) as cluster:
        cluster.apply([_admits_port_80()])
        assert cluster.agent.stop() == 0
        cluster.agent.start()
        assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}


def test_cleanup_removes_the_rules_the_run_dir_and_nothing_else() -> None:
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([_admits_port_80()])
        before = cluster.box.run("node", ["nft", "list", "tables"]).stdout
        assert "table inet netpolq" in before
        assert cluster.agent.stop() == 0
        assert cluster.agent.cleanup()
        after = cluster.box.run("node", ["nft", "list", "tables"]).stdout
        assert after == before.replace("table inet netpolq\n", "")
        assert not cluster.agent.run_dir.exists()
        assert reached(cluster, "x/b", "x/a") == EVERYTHING
        assert cluster.agent.cleanup() == "nothing to remove\n"


def test_cleanup_is_refused_while_the_agent_runs(cluster: Cluster) -> None:
    cluster.apply([_admits_port_80()])
    argv = [sys.executable, "-m", "netpolq", "cleanup", "--run-dir", str(cluster.agent.run_dir)]
    done = cluster.box.run("node", argv)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1
    assert reached(cluster, "x/b", "x/a") == {("TCP", 80)}
