"""`netpolq explain` of a running agent: the answers of the offline command, and the versions and names that only the agent knows."""

import functools
import http.client
import json
import random

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.addresses import format_address
from netpolq.errors import ExitCode, NetpolqError
from netpolq.supervisor.status_client import request
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER
from tests.support.cluster_policies import cluster_policy, rule
from tests.support.clusters import random_cluster, random_flows
from tests.support.commands import in_process
from tests.support.dns_answers import DnsAnswers, answering_agent

NAME = "www.example.com"
OUTSIDE = "192.0.2.7"


@pytest.fixture(scope="module")
def folder(shared_box: Box) -> Path:
    """The server admits the friend at port 80; the friend may leave for port 53 and `*.example.com` only."""
    folder = shared_box.directory / "manifests"
    folder.mkdir()
    friend = {"podSelector": {"matchLabels": {"app": "friend"}}}
    manifests.write(
        folder / "cluster.json",
        [
            manifests.namespace("app"),
            *(manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in (SERVER, FRIEND, STRANGER)),
            manifests.policy(
                "app/server",
                podSelector={"matchLabels": {"app": "server"}},
                policyTypes=["Ingress"],
                ingress=[{"from": [friend], "ports": [{"port": 80}]}],
            ),
            cluster_policy(
                "names",
                egress=[
                    {"name": "local", **rule("Pass", {"namespaces": {}})},
                    {"name": "mirrors", **rule("Accept", {"domainNames": ["*.example.com"]})},
                    {"name": "rest", **rule("Deny", {"networks": ["0.0.0.0/0"]})},
                ],
            ),
        ],
    )
    return folder


@pytest.fixture(scope="module")
def agent(shared_box: Box, folder: Path) -> Iterator[Agent]:
    """For all tests: those that change its objects come last."""
    with answering_agent(shared_box, folder, "--workers=1") as agent:
        yield agent


def explained(*words: str, code: ExitCode = ExitCode.OK) -> tuple[str, str]:
    """What the command prints: on standard output and on standard error."""
    found, printed, errors = in_process("explain", *words)
    assert found == code, errors + printed
    return printed, errors


def printed_by(*words: str, code: ExitCode = ExitCode.OK) -> str:
    """What a command prints on standard output."""
    found, printed, errors = in_process(*words)
    assert found == code, errors + printed
    return printed


def of_agent(agent: Agent, *words: str, code: ExitCode = ExitCode.OK) -> list[str]:
    return explained(*words, "--run-dir", str(agent.run_dir), code=code)[0].splitlines()


def test_the_agent_gives_the_answers_of_the_offline_command(agent: Agent, folder: Path) -> None:
    offline = "--manifests", str(folder)
    version = f"policies     version {agent.status()['snapshot_version']} of the agent on node, in force"
    for words, code in (
        (("--src", FRIEND.name, "--dst", SERVER.name, "--port=80", "--expect=allow"), ExitCode.OK),
        (("--src", STRANGER.name, "--dst", SERVER.name, "--port=80", "--expect=allow"), ExitCode.UNEXPECTED),
        (("--src", FRIEND.name, "--dst", SERVER.name, "--port=81"), ExitCode.OK),
        (("--src", FRIEND.name, "--dst", f"{OUTSIDE}:443", "--expect=deny", "--engine=reference"), ExitCode.OK),
        (("--src", NODE.addresses[0], "--dst", SERVER.name, "--protocol=ICMP"), ExitCode.OK),
    ):
        answer = explained(*offline, *words, code=code)[0].splitlines()
        assert of_agent(agent, *words, code=code) == [*answer, version]
        assert json.loads("".join(of_agent(agent, *words, "-o=json", code=code))) == {
            **json.loads(explained(*offline, *words, "-o=json", code=code)[0]),
            "agent": {
                "node": "node",
                "snapshot_version": agent.status()["snapshot_version"],
                "in_force_version": agent.status()["in_force_version"],
                "in_force": True,
                "is_ahead": False,
            },
        }
    denied = "\n".join(of_agent(agent, "--src", STRANGER.name, "--dst", SERVER.name, "--port=80"))
    assert "passed by admin names, spec.egress[0] (local)" in denied
    assert "pod app/stranger has app=stranger, podSelector wants app=friend" in denied
    assert "to allow it: add " in denied


def test_many_packets_are_answered_from_all_objects_of_the_agent(agent: Agent, folder: Path, tmp_path: Path) -> None:
    addresses = [address for host in (SERVER, FRIEND, STRANGER) for address in host.addresses]
    questions = [
        {"src": source, "dst": destination, "proto": "TCP", "dport": 80}
        for source in addresses
        for destination in addresses
        if (":" in source) is (":" in destination)
    ]
    path = tmp_path / "packets"
    path.write_text("\n".join(map(json.dumps, questions)))
    expected = explained("--manifests", str(folder), "--packets", str(path))[0].splitlines()
    assert of_agent(agent, "--packets", str(path)) == expected
    assert len(expected) == len(questions)


def test_matrix_and_difference_of_the_agent(agent: Agent, folder: Path, tmp_path: Path) -> None:
    offline = printed_by("matrix", "--manifests", str(folder))
    assert printed_by("matrix", f"--run-dir={agent.run_dir}") == offline
    manifests.write(tmp_path / "closed.json", [manifests.policy("app/closed", podSelector={}, policyTypes=["Ingress"])])
    words = "diff", "agent:", str(tmp_path / "closed.json"), "--new-has=changes", f"--run-dir={agent.run_dir}"
    assert "app/server -> app/friend: " in printed_by(*words, code=ExitCode.UNEXPECTED)


def test_learned_names_count(agent: Agent, shared_box: Box) -> None:
    refused = explained("--src", FRIEND.name, f"--dst={NAME}:443", f"--run-dir={agent.run_dir}", code=ExitCode.FAILED)[1]
    assert f"--dst: no address of {NAME} is known to the agent, and no DNS server is asked" in refused
    with DnsAnswers(shared_box) as dns:
        dns.learn(FRIEND.addresses[0], NAME, OUTSIDE, "192.0.2.8", ttl_s=300)
    by_address = of_agent(agent, "--src", FRIEND.name, f"--dst={OUTSIDE}:443", "--expect=allow")
    assert by_address[0] == "verdict      accept, allowed: a rule allows it in each direction that policies decide"
    assert f"             *.example.com matches {NAME}, a name of {OUTSIDE}" in by_address
    by_name = of_agent(agent, "--src", FRIEND.name, f"--dst={NAME.upper()}:443", "--expect=allow")
    assert by_name[:2] == [f"asked for    {NAME}, 2 learned addresses", "verdict      accept: 2 of 2 connections are allowed"]
    assert "destination  192.0.2.8 (no pod), TCP port 443" in by_name
    document = json.loads("".join(of_agent(agent, "--src", FRIEND.name, f"--dst={NAME}:443", "-o=json")))
    assert (document["verdict"], document["name"], len(document["answers"])) == ("accept", NAME, 2)


def test_errors_tell_what_is_missing(agent: Agent, tmp_path: Path) -> None:
    run_dir = f"--run-dir={agent.run_dir}"
    assert (
        "--dst: pod app/none does not exist in the agent"
        in explained("--src", FRIEND.name, "--dst=app/none", "--port=80", run_dir, code=ExitCode.FAILED)[1]
    )
    for end in ("svc/app/db", "svc/db", "deployment/app/web"):
        message = explained("--src", FRIEND.name, f"--dst={end}", "--port=80", run_dir, code=ExitCode.FAILED)[1]
        assert "an agent knows no Services and workloads; give --kubeconfig FILE or --manifests PATH" in message
    lines = of_agent(agent, "--src", FRIEND.name, "--dst=10.96.0.5:80")
    assert (
        lines[-2] == "note         if 10.96.0.5 is the address of a Service, give --kubeconfig FILE: an agent knows no Services"
    )
    none = explained("--src=10.0.0.1", "--dst=10.0.0.2:80", f"--run-dir={tmp_path}", code=ExitCode.FAILED)[1]
    assert "no agent answers on" in none
    assert "To ask without an agent, give --manifests PATH or --kubeconfig FILE." in none


def test_the_agent_survives_any_query(agent: Agent) -> None:
    rng = random.Random(7)
    queries = [
        b"end=",
        b"end=%ff%fe",
        b"end=%00",
        b"x=1",
        b"end=1.2.3.4&end=" + b"a" * 7000,
        b"&&=;",
        b"end=10.0.0.1&" * 9,
        b"end=../a",
    ]
    queries += [quote_from_bytes(rng.randbytes(rng.randint(1, 40))).encode() for _ in range(50)]
    for query in queries:
        with pytest.raises(NetpolqError, match=r"answered 400: "):
            request(agent.run_dir, "GET", f"/objects?{query.decode()}")
    with pytest.raises((NetpolqError, http.client.InvalidURL, ValueError)):
        request(agent.run_dir, "GET", "/objects?end=" + "a" * 20_000)
    assert request(agent.run_dir, "GET", "/objects?end=10.0.0.1").splitlines()[-1].startswith(b'["last",')
    assert agent.is_ready()


def has_answer(agent: Agent, words: tuple[str, ...], expected: object) -> bool:
    """Whether the agent's answer is that of a command that reads manifests."""
    answer: dict[str, object] = json.loads("".join(of_agent(agent, *words)))
    del answer["agent"]
    answer.pop("notes", None)  # that the agent knows no Services
    return answer == expected


def test_answers_are_those_of_the_manifests_for_random_clusters(agent: Agent, folder: Path) -> None:
    rng = random.Random(11)
    path = folder / "cluster.json"
    for number in range(6):
        cluster = random_cluster(rng)
        before = agent.status()
        path.unlink()  # of a changed file, the content from before may stay in force
        agent.wait_until_enforced(before)
        before = agent.status()
        path = folder / f"cluster-{number}.json"
        manifests.write(
            path, [*cluster.bodies, manifests.namespace("not-empty"), manifests.policy("not-empty/some", podSelector={})]
        )
        agent.wait_until_enforced(before)
        for flow in random_flows(rng, cluster, 6):
            words = (
                *("--src", format_address(flow.source), "--dst", format_address(flow.destination)),
                *("--protocol", str(flow.protocol), "--port", str(flow.port), "-o=json"),
            )
            offline = json.loads(explained("--manifests", str(folder), *words)[0])
            # The removal of the file before may come into force in two steps, and then the first wait was for the second of them.
            agent.wait_until(f"the answer is {offline}", functools.partial(has_answer, agent, words, offline))
