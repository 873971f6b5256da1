"""Policies and pods of an attacker: their cost for others is bounded, and they open no pod of another namespace.

Costs are compared with a modest case in the same run, the least of several rounds each.
"""

import logging
import time
import tracemalloc

from collections.abc import Callable, Iterable, Sequence

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.testbed.manifests import Body, policy, rules_with_large_tables
from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import LoggingFormat, Verdict
from netpolq.model import Object, Rejection, Update
from netpolq.policy.compiler import Compiler
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.reader import Evaluation
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode_all
from netpolq.store import Store
from tests.support.compiled import Compilation
from tests.support.logging_output import logging_output
from tests.support.sizes import sized

HERE, ELSEWHERE = "here", "elsewhere"
VICTIM, VICTIM6, FRIEND, STRANGER, EVIL = "10.0.0.1", "fd00::1", "10.0.0.2", "192.0.2.9", "10.0.0.66"
ROUNDS = 5


def pod(name: str, ips: Sequence[str], *, node: str = HERE, created: str = "2026-01-01T00:00:00Z", **changes: object) -> Body:
    """A running pod of namespace/name labelled with its name. `changes`: of its specification, or its phase."""
    namespace, own_name = name.split("/")
    status = {"phase": changes.pop("phase", "Running"), "podIPs": [{"ip": ip} for ip in ips], "hostIP": "10.9.0.1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": own_name, "labels": {"app": own_name}, "creationTimestamp": created},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x", "ports": changes.pop("ports", [])}], **changes},
        "status": status,
    }


BYSTANDERS: tuple[Body, ...] = (
    pod("bank/vault", [VICTIM, VICTIM6]),
    pod("bank/teller", [FRIEND]),
    policy(
        "bank/vault",
        podSelector={"matchLabels": {"app": "vault"}},
        policyTypes=["Ingress", "Egress"],
        ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "teller"}}}], "ports": [{"port": 443}]}],
    ),
)


class World:
    """The state of a node after it has decoded and compiled some bodies."""

    def __init__(self, bodies: Iterable[Body]) -> None:
        self.errors: list[DecodeError] = []
        objects: list[Object] = []
        for body in bodies:
            for item in decode_all(body):
                if isinstance(item, DecodeError):
                    self.errors.append(item)
                usable = item.partial if isinstance(item, DecodeError) else item
                if usable is not None and not isinstance(usable, Ignored):
                    objects.append(usable)
        self.store = Store()
        self.store.apply(Update(upserted=tuple(objects), ignored={}, observed_ns=0))
        self.compilation = Compilation(self.store, is_local=lambda found: found.node_name == HERE)
        self.compilation.update()
        self.view = self.compilation.view()

    def isolated(self, address: str) -> tuple[bool, ...]:
        key = parse_address(address)
        return tuple(key in keys for keys in self.compilation.compiler.isolated)

    def verdict(self, source: str, destination: str, port: int) -> Verdict:
        return self.view.evaluate(parse_address(source), parse_address(destination), 6, port).verdict


def decisions_about_the_vault(world: World) -> list[object]:
    """For every peer and port that means something to the bystanders, and the kernel's sets."""
    peers = [FRIEND, STRANGER, EVIL, "10.9.0.1"]
    verdicts = [(world.verdict(peer, VICTIM, port), world.verdict(VICTIM, peer, port)) for peer in peers for port in (22, 443)]
    return [*verdicts, world.isolated(VICTIM), world.isolated(VICTIM6)]


# --- no other pod is opened -----------------------------------------------------------------------------------------------------------

NEWER = "2026-06-01T00:00:00Z"
ATTACKS: dict[str, list[Body]] = {
    "a newer pod of another node with its address": [pod("evil/p", [VICTIM, VICTIM6], node=ELSEWHERE, created=NEWER)],
    "the same, written as a mapped address": [pod("evil/p", [f"::ffff:{VICTIM}", VICTIM6], node=ELSEWHERE, created=NEWER)],
    "a pod that does not run yet with its address": [pod("evil/p", [VICTIM, VICTIM6], phase="Pending", created=NEWER)],
    "a completed pod with its address": [pod("evil/p", [VICTIM, VICTIM6], phase="Succeeded", created=NEWER)],
    "a hostNetwork pod with its address": [pod("evil/p", [VICTIM, VICTIM6], hostNetwork=True, created=NEWER)],
    "a thousand pods with its address": [pod(f"evil/p{n}", [VICTIM], node=ELSEWHERE, created=NEWER) for n in range(1000)],
    "addresses that are none": [pod("evil/p", ["10.0.0.1 ", "10.0.0.01", "0x0a000001", "fd00::1%eth0", "10.0.0.1/32", "\0"])],
    "a policy of another namespace for its labels": [
        policy("evil/open", podSelector={"matchLabels": {"app": "vault"}}, ingress=[{}], egress=[{}])
    ],
    "a policy that admits everything to everybody": [policy("evil/open", ingress=[{}], egress=[{}])],
    "labels of its friend in another namespace": [pod("evil/teller", [EVIL])],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_leaves_a_bystander_as_it_was(attack: str) -> None:
    calm = World(BYSTANDERS)
    assert calm.verdict(FRIEND, VICTIM, 443) is Verdict.ACCEPT
    assert calm.verdict(STRANGER, VICTIM, 443) is Verdict.DROP
    assert calm.isolated(VICTIM) == (True, True)
    expected = decisions_about_the_vault(calm)
    assert decisions_about_the_vault(World([*BYSTANDERS, *ATTACKS[attack]])) == expected
    assert decisions_about_the_vault(World([*ATTACKS[attack], *BYSTANDERS])) == expected


def test_the_isolation_of_a_local_pod_outlives_claims_that_come_and_go() -> None:
    world = World(BYSTANDERS)
    claims = World([pod("evil/p", [VICTIM], node=ELSEWHERE, created=NEWER)]).store.pods.values()
    for update in (
        Update(upserted=tuple(claims), ignored={}, observed_ns=0),
        Update(deleted=tuple(claim.key for claim in claims), ignored={}, observed_ns=0),
    ):
        world.store.apply(update)
        world.compilation.update()
        assert world.isolated(VICTIM) == (True, True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"])
def test_an_address_that_no_pod_can_have_is_rejected_and_isolates_nothing(address: str) -> None:
    world = World([pod("evil/p", [address, EVIL]), policy("evil/p", policyTypes=["Ingress", "Egress"])])
    assert "address of one host" in str(world.errors[0])
    assert world.isolated(address) == (False, False)
    assert world.isolated(EVIL) == (True, True), "the other address is still the pod's"


def test_a_pod_with_the_address_of_its_node_does_not_isolate_the_node() -> None:
    world = World([pod("evil/p", ["10.9.0.1", EVIL]), policy("evil/p", policyTypes=["Ingress", "Egress"])])
    assert world.isolated("10.9.0.1") == (False, False)
    assert world.isolated(EVIL) == (True, True)


# --- names and labels -----------------------------------------------------------------------------------------------------------------


def test_names_and_labels_at_their_limits_are_used_and_beyond_them_refused() -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    label = f"{longest}/{'n' * 63}"
    good = pod(f"evil/{longest}", [EVIL])
    good["metadata"]["labels"] = {label: "v" * 63}  # type: ignore[index]
    selecting = policy(f"evil/{longest}", podSelector={"matchLabels": {label: "v" * 63}})
    assert len(longest) == 253
    world = World([good, selecting])
    assert not world.errors
    assert world.isolated(EVIL) == (False, True)
    for bad in (pod(f"evil/{longest}e", [EVIL]), policy(f"evil/{longest}e")):
        (error,) = World([bad]).errors
        assert "at most 253" in str(error)


@given(st.text(max_size=30), st.sampled_from(["\n", "\r", "\x1b[2J", "\x00", "\u2028", "\x85", "\u202e", "\ud800"]))
@settings(max_examples=sized(80))
def test_whatever_a_rejection_says_is_one_line_of_the_log(text: str, control: str) -> None:
    forged = f"{text}{control}2026-01-01T00:00:00.000Z INFO pool[1]: all is well"
    for logging_format in LoggingFormat:
        with logging_output(logging_format) as output:
            fields = Rejection(
                origin=forged, document=1, key=forged, field=forged, message=forged, further=(forged,), consequence=forged
            )
            logging.getLogger("app").error("rejected: %s", fields)
        written = output.getvalue()
        assert written.endswith("\n")
        assert written[:-1].isprintable()
        assert len(written.splitlines()) == 1


# --- what it costs --------------------------------------------------------------------------------------------------------------------


def least_s(call: Callable[[], object]) -> float:
    """The shortest of some rounds, in CPU time: what else runs on the machine only ever adds."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def ratio(hostile: Callable[[], object], modest: Callable[[], object]) -> float:
    return least_s(hostile) / least_s(modest)


def selector(expressions: int, values: int) -> Body:
    return {
        "matchExpressions": [
            {"key": f"key-{number}", "operator": "NotIn", "values": [f"value-{value:06}" for value in range(values)]}
            for number in range(expressions)
        ]
    }


def test_a_value_more_in_a_selector_costs_next_to_nothing_for_each_pod() -> None:
    labels = {f"key-{number}": "zzz" for number in range(100)}

    def labelled(count: int) -> list[Body]:
        pods = [pod(f"evil/p{number}", [f"10.1.{number // 250}.{number % 250 + 1}"]) for number in range(count)]
        for number, body in enumerate(pods):
            body["metadata"]["labels"] = {**labels, "number": str(number)}  # type: ignore[index]
        return pods

    def compiling(values: int) -> Callable[[], object]:
        pods = labelled(100)
        isolating = policy("evil/p", ingress=[{"from": [{"podSelector": selector(100, values)}]}])
        stores = World([*pods, isolating]).store

        def compile_again() -> None:
            Compiler(stores, is_local=lambda _pod: True).everything(with_node_addresses=False)

        return compile_again

    # 10,000 label comparisons each; 200 times as many values. Walking through them would make it a hundredfold.
    assert ratio(compiling(2000), compiling(10)) < 20


def blocks_of(count: int) -> list[Body]:
    """Rules about all addresses but one each, every one with a port of its own: an address lies in nearly all of them at once."""
    return [
        {
            "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"172.16.{n // 250}.{n % 250}/32"]}}],
            "ports": [{"port": n % 60000 + 1}],
        }
        for n in range(count)
    ]


def answer_from(world: World, destinations: Sequence[AddressKey], port: int = 7) -> CachedEvaluator[Evaluation]:
    evaluator = CachedEvaluator(world.view, lambda evaluation, _on_every_port: evaluation)
    for destination in destinations:
        evaluator.answer(parse_address(EVIL), destination, 6, port)
    return evaluator


def test_a_cold_packet_costs_the_same_however_many_blocks_its_peer_lies_in() -> None:
    def evaluation(blocks: int) -> Callable[[], object]:
        world = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=blocks_of(blocks))])
        destinations = [parse_address(f"{n % 200 + 1}.{n % 250}.{n * 7 % 250}.{n}") for n in range(250)]
        return lambda: answer_from(world, destinations)

    # A hundred times as many: seven levels of the tree more, where one step for each block would make it a hundredfold.
    assert ratio(evaluation(3000), evaluation(30)) < 10


def test_overlapping_blocks_with_exceptions_take_no_more_of_a_workers_memory() -> None:
    world = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=blocks_of(400))])
    destinations = [parse_address(f"172.16.{n // 250}.{n % 250}") for n in range(400)]
    tracemalloc.start()
    try:
        kept = answer_from(world, destinations)
        used, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept is not None
    # A tuple of 400 numbers for each of 400 addresses would be 1.3 MB.
    assert used < 300_000


@pytest.mark.parametrize("destination", ["172.16.1.7", "172.16.3.249", "10.1.2.3"])
def test_a_fast_answer_about_hostile_blocks_is_the_slow_one(destination: str) -> None:
    world = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=blocks_of(1000))])
    key, source = parse_address(destination), parse_address(EVIL)
    evaluator = CachedEvaluator(world.view, lambda evaluation, _on_every_port: evaluation)
    for port in (1, 257, 258, 999, 1000, 1001, 1002, 60000):
        for _ in range(3):
            assert evaluator.answer(source, key, 6, port) == world.view.evaluate(source, key, 6, port)


def test_exceptions_of_one_block_are_not_unpacked_while_packets_wait() -> None:
    def first_answer(exceptions: int) -> Callable[[], object]:
        excepted = [f"172.{16 + n // 62500}.{n // 250 % 250}.{n % 250}/32" for n in range(0, 2 * exceptions, 2)]
        rules = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": excepted}}]}]
        world = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=rules)])
        destinations = [parse_address(STRANGER)] * 20
        return lambda: answer_from(world, destinations)

    # A hundred times as many; unpacking them takes that much longer.
    assert ratio(first_answer(20_000), first_answer(200)) < 5


def test_thousands_of_port_ranges_are_not_divided_again_for_every_packet() -> None:
    def evaluation(ranges: int) -> Callable[[], object]:
        entries = [{"port": 1 + 3 * n, "endPort": 2 + 3 * n} for n in range(ranges)]
        world = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=[{"ports": entries}])])
        evaluator = answer_from(world, [parse_address(STRANGER)] * 3)
        source, destination = parse_address(EVIL), parse_address(STRANGER)
        return lambda: [evaluator.answer(source, destination, 6, port) for port in range(1, 60_000, 100)]

    # Both are beyond what is divided into classes, so both are a binary search for each packet.
    assert ratio(evaluation(20_000), evaluation(600)) < 3


def test_overlapping_port_ranges_make_a_table_that_is_no_larger_than_they_are() -> None:
    entries = [{"port": 1 + n, "endPort": 65535 - n} for n in range(5000)]
    rules = [{"ports": [entry]} for entry in entries]
    world = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=rules)])
    assert world.verdict(EVIL, STRANGER, 1) is Verdict.ACCEPT
    assert len(world.view._words) < 20 * len(entries)


@pytest.mark.property
def test_compiling_nested_blocks_and_ranges_costs_as_many_times_as_there_are_more() -> None:
    def compiling(count: int) -> Callable[[], object]:
        rules = [*blocks_of(count), *({"ports": [{"port": 1 + n, "endPort": 65535 - n}]} for n in range(count))]
        store = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=rules)]).store

        def compile_again() -> None:
            Compiler(store, is_local=lambda _pod: True).everything(with_node_addresses=False)

        return compile_again

    # Eight times as many. Squared it would be 64 times.
    assert ratio(compiling(2400), compiling(300)) < 24


@pytest.mark.property
def test_rules_with_tables_of_their_own_compile_in_proportion_to_their_number() -> None:
    """A table that is not merged is at thousands of nodes, and is built and encoded once."""

    def compiling(count: int) -> Callable[[], object]:
        rules = rules_with_large_tables("to")[:count]
        store = World([pod("evil/p", [EVIL]), policy("evil/p", policyTypes=["Egress"], egress=rules)]).store

        def compile_again() -> None:
            builder = SnapshotBuilder()
            builder.apply(Compiler(store, is_local=lambda _pod: True).everything(with_node_addresses=False))

        return compile_again

    # Five times as many rules, at more nodes each. Hashing each table at each of its nodes made it more than a hundredfold.
    assert ratio(compiling(20), compiling(4)) < 25
