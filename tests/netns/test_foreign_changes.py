"""Changes of other programs to the agent's table in fail-closed mode: the agent restores it at once and cuts connections that got in."""

import os
import re
import shutil
import statistics
import time

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.manifests import policy
from tests.support.cluster import Cluster
from tests.support.four_pods import NODE, cluster_with, egress, ingress, pods
from tests.support.leaks import leaking

FROM_C = {"from": [{"podSelector": pods("c")}]}
TRIES = 24
MAX_RUNS = 4


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """Pod a admits pod c alone."""
    with cluster_with("--workers", "2", "--fail-open=false") as started:
        started.apply([ingress(FROM_C)])
        yield started


def nft(cluster: Cluster, *argv: str) -> str:
    done = cluster.box.run(NODE.name, ["nft", *argv])
    assert done.returncode == 0, done.stderr
    return done.stdout


def chain_on(cluster: Cluster, hook: str) -> str:
    """A base chain of the agent's table whose rules decide at a hook."""
    listed = nft(cluster, "list", "table", "inet", "netpolq")
    found = re.findall(rf"chain (\w+) \{{\n\s*type filter hook {hook} priority", listed)
    return str(found[0])


def repairs(cluster: Cluster) -> int:
    found = re.search(r"^netpolq_ruleset_repairs_total (\d+)", cluster.agent.metrics(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def log_of(cluster: Cluster) -> str:
    return cluster.agent.log.read_text(encoding="utf-8")


def damages(cluster: Cluster) -> list[str]:
    """Scripts after which denied packets pass."""
    chain = chain_on(cluster, "postrouting")
    address = cluster.box.address("x/a", 4)
    return [
        "flush ruleset",
        "delete table inet netpolq",
        f"flush chain inet netpolq {chain}",
        "flush set inet netpolq isolated_ingress_v4",
        # As when an older dump is restored, in which another pod is isolated.
        f"flush set inet netpolq isolated_ingress_v4; add element inet netpolq isolated_ingress_v4 {{ {address[:-1]}9 }}",
        f"insert rule inet netpolq {chain} accept",
    ]


def test_what_is_denied_passes_for_no_longer_than_the_kernel_takes_to_notify(guarded: Cluster) -> None:
    """The median over different damages, from the first datagram that got in to the last, is a few times that of a run of `nft`.

    To restore the table, the agent starts that program, too.
    """
    gaps_s: list[tuple[float, str]] = []
    runs_s: list[float] = []
    scripts = damages(guarded)
    with leaking(guarded, "x/b", "x/a") as leak:
        guarded.agent.wait_until("it is denied", leak.is_quiet)
        for number in range(TRIES):
            script = scripts[number % len(scripts)]
            leak.arrivals_s.clear()
            runs_s.append(damage(guarded, script))
            guarded.agent.wait_until("what got in is cut", leak.is_quiet)
            gaps_s.append((leak.arrivals_s[-1] - leak.arrivals_s[0] if leak.arrivals_s else 0.0, script))
    gap_s, run_s = statistics.median(gap_s for gap_s, _script in gaps_s), statistics.median(runs_s)
    print(gap_s / run_s, gaps_s, runs_s)
    assert gap_s <= MAX_RUNS * run_s, gaps_s
    assert "changed by 'nft' (pid " in log_of(guarded)


def damage(cluster: Cluster, script: str) -> float:
    """Apply a script as another program does, and wait until the agent has repaired the table. Returns seconds of the script."""
    before = repairs(cluster)
    began_s = time.monotonic()
    cluster.box.nft(script)
    took_s = time.monotonic() - began_s
    cluster.agent.wait_until("it is repaired", lambda: repairs(cluster) > before)
    return took_s


def test_a_decision_that_another_program_writes_into_the_verdict_cache_is_forgotten() -> None:
    """`return` means accept there, so such an element would open a pod until it times out."""
    with cluster_with("--workers", "2", "--fail-open=false", "--verdict-cache=on") as cluster:
        cluster.apply([ingress(FROM_C)])
        source, destination = (cluster.box.address(name, 4) for name in ("x/b", "x/a"))
        with leaking(cluster, "x/b", "x/a") as leak:
            cluster.agent.wait_until("it is denied", leak.is_quiet)
            element = f"{source} . {destination} . udp . 9100 timeout 1h : return"
            damage(
                cluster,
                f"flush set inet netpolq counted_closed_v4; flush map inet netpolq counted_verdicts_v4; "
                f"add element inet netpolq counted_verdicts_v4 {{ {element} }}",
            )
            cluster.agent.wait_until("it is denied again", leak.is_quiet)
        assert "1h" not in nft(cluster, "list", "map", "inet", "netpolq", "counted_verdicts_v4")


def test_a_program_that_keeps_changing_the_table_causes_one_repair_per_second() -> None:
    """Then the agent repairs once a second, is not ready and gives the reason. It is ready again when the program has ended."""
    with cluster_with("--workers", "1", "--fail-open=false") as cluster:
        cluster.apply([ingress(FROM_C)])
        fight = "while nft flush set inet netpolq isolated_ingress_v4; do sleep 0.02; done"
        fighter = cluster.box.popen(NODE.name, ["sh", "-c", fight], log=cluster.box.directory / "fighter.log")
        try:
            cluster.agent.wait_until("not ready", lambda: not cluster.agent.is_ready())
            assert "another program keeps changing the ruleset: " in cluster.agent.http("/readyz").body
            before, started_s = repairs(cluster), time.monotonic()
            cluster.agent.wait_until("repaired twice more", lambda: repairs(cluster) >= before + 2)
            assert time.monotonic() - started_s > 0.5
        finally:
            fighter.kill()
            fighter.wait()
        cluster.agent.wait_until("ready", cluster.agent.is_ready)
        assert nft(cluster, "list", "set", "inet", "netpolq", "isolated_ingress_v4").count(cluster.box.address("x/a", 4)) == 1
        assert log_of(cluster).count("from now on it is repaired once a second") == 1


def test_an_nft_that_hangs_delays_no_change_of_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a damaged table nothing needs nft. With one the agent kills nft, is not ready, and continues when nft works again."""
    hanging, wrapper = tmp_path / "hanging", tmp_path / "nft"
    program = shutil.which("nft")
    wrapper.write_text(f'#!/bin/sh\ntest -e {hanging} && exec sleep 1000\nexec {program} "$@"\n', encoding="ascii")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with cluster_with("--workers", "2", "--fail-open=false") as cluster:
        cluster.apply([ingress(FROM_C)])
        hanging.touch()
        cluster.apply([ingress(FROM_C), egress()])
        assert cluster.agent.is_ready()
        done = cluster.box.run(NODE.name, [str(program), "flush", "ruleset"])
        assert done.returncode == 0
        cluster.agent.wait_until("not ready", lambda: not cluster.agent.is_ready())
        cluster.agent.wait_until("nft is killed", lambda: "nft did not answer within 3 s" in log_of(cluster))
        assert cluster.agent.manifests is not None
        manifests.write(cluster.agent.manifests / "more.json", [policy("x/more", podSelector=pods("d"), policyTypes=["Ingress"])])
        cluster.agent.wait_until(
            "behind", lambda: re.search(r"is not in force \d+ s after the change", cluster.agent.http("/readyz").body) is not None
        )
        hanging.unlink()
        cluster.agent.wait_until("ready", cluster.agent.is_ready)
        assert nft(cluster, "list", "set", "inet", "netpolq", "isolated_ingress_v4").count(cluster.box.address("x/d", 4)) == 1
