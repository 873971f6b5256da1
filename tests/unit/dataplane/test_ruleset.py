"""Properties of the rendered ruleset, the queue rule and the readers of kernel state, without a kernel."""

import dataclasses
import ipaddress
import re
import struct

from pathlib import Path

import pytest

from netpolq.addresses import parse_address
from netpolq.dataplane import host_checks
from netpolq.dataplane.original_chains import original_rules
from netpolq.dataplane.queue_rule import FLAG_BYPASS, FLAG_CPU_FANOUT, queue_flags, replace_queue_rule
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig, chains, render
from netpolq.dataplane.ruleset_config import MAX_KNOWN
from netpolq.enums import Dataplane, NodeEgress, PacketMark
from netpolq.errors import KernelError
from netpolq.netlink import queue_table

CONFIG = RulesetConfig(
    queue_first=100,
    queue_count=2,
    fanout=True,
    fail_open=False,
    mark_mask=0x00070000,
    ct_label=40,
    node_egress=NodeEgress.JUDGE,
    dns_in_prerouting=True,
    form=Dataplane.COMPAT,
)
NOT_ISOLATED = IsolatedSets(ingress=frozenset(), egress=frozenset())


def isolated(*, ingress: tuple[str, ...] = (), egress: tuple[str, ...] = ()) -> IsolatedSets:
    return IsolatedSets(
        ingress=frozenset(parse_address(one) for one in ingress), egress=frozenset(parse_address(one) for one in egress)
    )


def rules(config: RulesetConfig, chain: str) -> tuple[str, ...]:
    return next((one.rules for one in chains(config) if one.name == chain), ())


def test_the_script_never_deletes_and_never_flushes_a_table() -> None:
    script = render(CONFIG, isolated(ingress=("10.0.0.1",)), stale_chains=["left_over"])
    assert {line.split()[0] for line in script.splitlines()} == {"add", "flush"}
    assert {line.split()[1] for line in script.splitlines() if line.startswith("flush")} == {"chain", "set"}


def test_the_script_leaves_the_queue_rule_alone() -> None:
    script = render(CONFIG, NOT_ISOLATED)
    assert "add chain inet netpolq enqueue\n" in script
    assert "flush chain inet netpolq enqueue" not in script
    assert "add rule inet netpolq enqueue" not in script


def test_stale_chains_are_emptied() -> None:
    assert "flush chain inet netpolq left_over\n" in render(CONFIG, NOT_ISOLATED, stale_chains=["left_over"])


def test_every_chain_is_flushed_before_it_is_filled() -> None:
    """Otherwise a second application would double the rules."""
    lines = render(CONFIG, NOT_ISOLATED).splitlines()
    for chain in chains(CONFIG):
        first_rule = next(i for i, line in enumerate(lines) if line.startswith(f"add rule inet netpolq {chain.name} "))
        assert lines.index(f"flush chain inet netpolq {chain.name}") < first_rule


def test_the_output_does_not_depend_on_the_order_of_the_addresses() -> None:
    addresses = [f"10.0.{i}.{j}" for i in range(20) for j in range(20)]
    assert render(CONFIG, isolated(egress=tuple(addresses))) == render(CONFIG, isolated(egress=tuple(reversed(addresses))))


def test_each_address_goes_into_the_set_of_its_direction_and_family() -> None:
    script = render(CONFIG, isolated(ingress=("10.0.0.2", "10.0.0.1", "fd00::1"), egress=("fd00::2",)))
    assert re.findall(r"add element inet netpolq (\S+) \{ (.*) \}", script) == [
        ("isolated_ingress_v4", "10.0.0.1, 10.0.0.2"),
        ("isolated_ingress_v6", "fd00::1"),
        ("isolated_egress_v6", "fd00::2"),
    ]


def test_marks_are_shifted_to_the_mask() -> None:
    config = dataclasses.replace(CONFIG, mark_mask=0x0E, ct_label=100)
    script = render(config, NOT_ISOLATED)
    assert "meta mark set meta mark & 0xfffffff1 | 0x00000006" in script
    assert "meta mark & 0x0000000e == 0x0000000a goto returned_accepted" in script
    assert rules(config, "returned_accepted")[0] == "ct label set 100"
    assert "meta mark & 0x00000008 == 0x00000008 ct label set 103" in script
    assert "0x00070000" not in script


def test_no_statement_writes_a_mark_without_keeping_the_other_bits() -> None:
    for statement in re.findall(r"mark set [^\n]*", render(dataclasses.replace(HOLDING, dns_queue=102), NOT_ISOLATED)):
        assert re.fullmatch(r"mark set meta mark (& 0xfff8ffff( \| 0x000[1-7]0000)?|\| 0x000[124]0000)", statement)


def test_the_connection_mark_is_neither_read_nor_written() -> None:
    assert "ct mark" not in render(dataclasses.replace(CONFIG, verdict_cache=True), NOT_ISOLATED)


def test_the_mark_is_written_only_on_the_way_into_the_queue_and_behind_it() -> None:
    every = dataclasses.replace(HOLDING, dns_queue=102)
    writing = {chain.name for chain in chains(every) if any("mark set" in rule for rule in chain.rules)}
    before = {"pending_original", "pending_reply", "pending_names", "unknown_source", "unknown_destination", "unknown_both"}
    assert writing == before | {"returned", "returned_accepted", "returned_names", "returned_query", "restore_field"}


@pytest.mark.parametrize("chain", ["returned", "returned_names", "returned_query"])
def test_a_packet_without_a_verdict_is_always_counted_and_dropped_only_in_fail_closed(chain: str) -> None:
    closed = [rule for rule in rules(READING, chain) if "unjudged" in rule]
    opened = [rule for rule in rules(dataclasses.replace(READING, fail_open=True), chain) if "unjudged" in rule]
    assert [rule.endswith("counter name unjudged drop") for rule in closed] == [True]
    assert [rule.endswith("counter name unjudged") for rule in opened] == [True]


def test_only_what_the_verdict_cache_accepts_returns_from_evaluation() -> None:
    """The rule after the jump records an acceptance: a packet that reaches the end of a chain would get there."""
    config = dataclasses.replace(CONFIG, verdict_cache=True, pod_ranges=RANGES, dns_queue=102)
    found = {chain.name: chain.rules for chain in chains(config)}
    asking = [name for name, its_rules in found.items() if any("accepts ct label set" in rule for rule in its_rules)]
    assert asking == ["judge_postrouting", "judge_input", "dns"]
    waiting = {found[name][-2].removeprefix("jump ") for name in asking}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        assert found[name][-1] == "accept" or " goto " in f" {found[name][-1]}"
        waiting |= {match for rule in found[name] for match in re.findall(r"goto (\w+)", rule)} - seen
    assert seen >= {"original", "original_v6", "to_node", "remembered_v4", "remembered_v6", "pending_original"}
    assert seen >= {"query_v4", "query_v6", "pending_names"}
    assert seen >= {"unknown_source_v4", "unknown_source_v6", "unknown_source", "unknown_destination", "unknown_both"}


RANGES = tuple(map(ipaddress.ip_network, ("10.244.1.0/25", "10.244.1.128/25", "10.245.0.0/24", "fd00:244::/64")))
HOLDING = dataclasses.replace(CONFIG, pod_ranges=RANGES, pod_interfaces=("cali*", "eth1"))
READING = dataclasses.replace(CONFIG, dns_queue=102)
ENDS = [PacketMark.UNKNOWN_SOURCE, PacketMark.UNKNOWN_DESTINATION, PacketMark.UNKNOWN_BOTH]


def test_features_that_are_off_have_no_rules() -> None:
    """The sets are there, so that only rules change with the configuration."""
    script = render(CONFIG, NOT_ISOLATED)
    for word in (
        "@known",
        "@asking",
        "enqueue_names",
        "unknown",
        "ct state new ",
        "label set 45",
        "label 46",
        "dport 53 meta l4proto",
    ):
        assert word not in script
    for name in ("known_v4", "known_v6", "asking_v4", "asking_v6"):
        assert f"add set inet netpolq {name} " in script
    assert not any("add rule inet netpolq original ct" in line for line in script.splitlines())


def test_known_and_asking_addresses_go_into_sets_of_their_family() -> None:
    """Pods that ask are among those that are isolated for egress, so that no other packet needs a look into one more set."""
    addresses = frozenset(map(parse_address, ("10.0.0.1", "fd00::1")))
    script = render(CONFIG, IsolatedSets(ingress=frozenset(), egress=frozenset(), known=addresses, asking=addresses))
    assert re.findall(r"add element inet netpolq (\S+) \{ (.*) \}", script) == [
        ("isolated_egress_v4", "10.0.0.1"),
        ("isolated_egress_v6", "fd00::1"),
        ("known_v4", "10.0.0.1"),
        ("known_v6", "fd00::1"),
        ("asking_v4", "10.0.0.1"),
        ("asking_v6", "fd00::1"),
    ]


@pytest.mark.parametrize("state", ENDS)
def test_what_waits_for_an_address_has_its_mark_and_the_label(state: PacketMark) -> None:
    """A foreign field is kept first."""
    kept, marked, labelled, queued, accepted = rules(HOLDING, state.name.lower())
    assert kept == "meta mark & 0x00070000 != 0x00000000 jump keep_field"
    assert marked == f"meta mark set meta mark & 0xfff8ffff | 0x{state << 16:08x}"
    assert (labelled, queued, accepted) == ("ct label set 45", "jump enqueue", "accept")


@pytest.mark.parametrize(("family", "chain"), [("v4", "original"), ("v6", "original_v6")])
def test_addresses_are_asked_about_after_neighbour_discovery_and_before_anything_else(family: str, chain: str) -> None:
    _first, source, destination, *others = rules(HOLDING, chain)
    assert f" saddr @unisolated_{family} jump from_unisolated_{family}" in source
    assert f" daddr @unisolated_{family} " in destination
    assert [f"@known_{family} ct state new,untracked " in rule for rule in others] == [True] * 6 + [False] * 3
    assert all("isolated" in rule for rule in others[6:-1])


def test_packets_of_unisolated_pods_need_one_look_up_for_each_end() -> None:
    """If ranges alone tell where pods are, an address outside of them needs none in the set of unisolated pods."""
    config = dataclasses.replace(CONFIG, pod_ranges=RANGES[:1])
    is_pod, is_none = "addr 10.244.1.0/25", "addr != 10.244.1.0/25"
    _v6, source, destination, *_others = rules(config, "original")
    assert source == f"ip s{is_pod} ip saddr @unisolated_v4 jump from_unisolated_v4"
    assert destination == f"ip d{is_pod} ip daddr @unisolated_v4 ip s{is_none} ip saddr != @isolated_egress_v4 accept"
    assert rules(config, "from_unisolated_v4") == (
        f"ip d{is_none} ip daddr != @isolated_ingress_v4 accept",
        "ip daddr @unisolated_v4 accept",
    )
    assert "@unisolated" not in render(CONFIG, NOT_ISOLATED)


def test_what_may_be_an_unknown_pod_is_not_accepted_for_the_other_end() -> None:
    """All ranges and interfaces count."""
    first, _second = rules(HOLDING, "from_unisolated_v6")
    for match in ("ip6 daddr != fd00:244::/64", 'oifname != "cali*"', 'oifname != "eth1"'):
        assert match in first
    _first, _source, destination, *_others = rules(HOLDING, "original")
    for match in ("ip saddr != { 10.244.1.0/24, 10.245.0.0/24 }", 'iifname != "cali*"', 'iifname != "eth1"'):
        assert match in destination


def test_unisolated_are_the_known_addresses_that_no_other_set_isolates() -> None:
    one, two, three, four = (parse_address(f"10.0.0.{end}") for end in range(1, 5))
    known = frozenset({one, two, three, four})
    sets = IsolatedSets(ingress=frozenset({one}), egress=frozenset({two}), asking=frozenset({three}), known=known)
    assert sets.by_set_name()["unisolated_v4"] == {"10.0.0.4"}


def test_more_known_addresses_than_the_kernels_set_holds_count_as_unknown() -> None:
    many = frozenset(parse_address(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(MAX_KNOWN + 10))
    found = dataclasses.replace(NOT_ISOLATED, known=many).by_set_name()
    script = render(CONFIG, NOT_ISOLATED)
    for name in ("known_v4", "unisolated_v4"):
        assert len(found[name]) == MAX_KNOWN
        assert f"add set inet netpolq {name} {{ type ipv4_addr; size {MAX_KNOWN}; }}\n" in script


def test_only_the_source_is_asked_about_on_the_way_to_the_node() -> None:
    found = [rule for rule in rules(HOLDING, "to_node") if "known" in rule]
    assert len(found) == 6
    assert all(" ct state new,untracked " in rule and rule.endswith(" goto unknown_source") for rule in found)


def test_ranges_become_as_few_blocks_as_possible_and_each_interface_a_rule() -> None:
    v4, v6 = ([rule for rule in rules(HOLDING, chain) if rule.endswith("destination")] for chain in ("original", "original_v6"))
    assert v4[0].startswith("ip daddr { 10.244.1.0/24, 10.245.0.0/24 } ip daddr != @known_v4 ")
    assert v6[0].startswith("ip6 daddr fd00:244::/64 ip6 daddr != @known_v6 ")
    for found in (v4, v6):
        assert [rule.split()[:2] for rule in found[1:]] == [["oifname", '"cali*"'], ["oifname", '"eth1"']]


def test_ranges_of_one_family_ask_nothing_about_the_other() -> None:
    only_v4 = dataclasses.replace(CONFIG, pod_ranges=RANGES[:1])
    assert not any("known_v6" in rule for chain in chains(only_v4) for rule in chain.rules)


def test_before_routing_the_routing_table_tells_the_output_interface() -> None:
    for family in ("v4", "v6"):
        found = [rule for rule in rules(HOLDING, "dns") if f"@known_{family}" in rule]
        assert len(found) == 6
        assert [rule.startswith("fib daddr oifname ") for rule in found] == [False] * 4 + [True] * 2
        assert any(rule.startswith("fib daddr oifname ") for rule in rules(HOLDING, f"dns_unknown_source_{family}"))
    late = dataclasses.replace(HOLDING, dns_in_prerouting=False)
    assert "fib daddr oifname" not in render(late, NOT_ISOLATED)
    assert "fib daddr oifname" not in render(dataclasses.replace(HOLDING, pod_interfaces=()), NOT_ISOLATED)


@pytest.mark.parametrize("direction", ["original", "to_node"])
def test_a_held_packet_counts_as_queued_though_its_pod_is_not_isolated(direction: str) -> None:
    assert "ct state new ct label 45 goto returned" in rules(HOLDING, f"record_{direction}")


def test_dns_connections_of_pods_that_ask_never_become_accepted() -> None:
    found = {chain.name: chain.rules for chain in chains(dataclasses.replace(READING, pod_ranges=RANGES, verdict_cache=True))}
    for name in ("returned_names", "returned_query"):
        assert not any("ct label set 40" in rule for rule in found[name])
    for name in ("record_original", "record_reply", "record_to_node", "record_own_response", "record_query"):
        about_dns = [rule for rule in found[name] if "@asking" in rule]
        assert len(about_dns) == 2
        assert {rule.split(" goto ")[1] for rule in about_dns} == {
            "returned_query" if name == "record_query" else "returned_names"
        }
    assert found["query_v4"][-2:] == (
        "th dport 53 meta l4proto { tcp, udp } ip saddr @asking_v4 goto pending_names",
        "goto remembered_v4",
    )


@pytest.mark.parametrize(
    ("node_egress", "found"),
    [(NodeEgress.JUDGE, "ip saddr @isolated_egress_v4 goto query_v4"), (NodeEgress.ALLOW, "pending_names")],
)
def test_dns_to_the_own_node_is_read_in_both_modes(node_egress: NodeEgress, found: str) -> None:
    """Where the rest is not evaluated, only packets to port 53 are looked at."""
    config = dataclasses.replace(READING, node_egress=node_egress)
    assert any(found in rule for rule in rules(config, "to_node"))
    assert any(chain.name == "record_input" for chain in chains(config))
    if node_egress is NodeEgress.ALLOW:
        assert rules(config, "judge_input") == ("th dport 53 goto to_node",)


@pytest.mark.parametrize("form", [Dataplane.NATIVE, Dataplane.COMPAT])
@pytest.mark.parametrize("fail_open", [False, True])
def test_the_dns_queue_has_a_rule_of_its_own(form: Dataplane, *, fail_open: bool) -> None:
    """One queue, which is bypassed only in fail-open."""
    config = dataclasses.replace(READING, form=form, fail_open=fail_open)
    requests = replace_queue_rule(config)
    rule = b"".join(requests[-1].attributes)
    assert b"enqueue_names\x00" in rule
    flags = FLAG_BYPASS if fail_open else 0
    if form is Dataplane.COMPAT:
        assert struct.pack("=HHH2x", 102, 1, flags) in rule
    else:
        assert all(
            b"\x06\x00" + kind + b"\x00" + struct.pack("!H", value) in rule
            for kind, value in ((b"\1", 102), (b"\2", 1), (b"\3", flags))
        )
    assert requests[:4] == replace_queue_rule(dataclasses.replace(config, dns_queue=None))


def test_original_destinations_are_noted_before_the_queue_only_while_packets_are_answered() -> None:
    rejecting = dataclasses.replace(CONFIG, rejects=True)
    assert [rule for rule in rules(rejecting, "pending_original") if rule not in rules(CONFIG, "pending_original")] == [
        "ct status dnat meta l4proto { tcp, udp, sctp } jump note_original"
    ]
    assert rules(rejecting, "pending_original")[-2:] == rules(CONFIG, "pending_original")[-2:]
    assert len(original_rules(rejecting)) == 2
    assert original_rules(CONFIG) == ()
    for config, count in ((CONFIG, 0), (rejecting, 2)):
        script = render(config, NOT_ISOLATED)
        assert len(re.findall(r"add map inet netpolq originals_v[46] ", script)) == count
        assert "add rule inet netpolq note_original" not in script, "they are written by netlink"


def test_egress_to_the_own_node_is_not_evaluated_when_it_is_allowed() -> None:
    allowed = dataclasses.replace(CONFIG, node_egress=NodeEgress.ALLOW)
    assert not any("to_node" in rule for rule in rules(allowed, "judge_input"))
    assert not rules(allowed, "to_node")
    assert rules(CONFIG, "judge_input")[-1] == "goto to_node"
    assert any("ip6 saddr @isolated_egress_v6" in rule for rule in rules(CONFIG, "to_node"))


def test_dns_to_an_address_of_the_node_is_left_to_the_later_hooks() -> None:
    """It may be the address of a service, which is translated later."""
    assert "fib daddr type local accept" in rules(CONFIG, "dns")


def test_only_sources_are_checked_before_routing_unless_dns_is_evaluated_there() -> None:
    def before_routing(config: RulesetConfig) -> list[str]:
        return [chain.name for chain in chains(config) if "hook prerouting" in chain.hook]

    assert before_routing(CONFIG) == ["check_source", "judge_dns", "record_dns"]
    assert before_routing(dataclasses.replace(CONFIG, dns_in_prerouting=False)) == ["check_source"]


@pytest.mark.parametrize(
    ("fail_open", "fanout", "count", "flags"),
    [
        (True, True, 2, FLAG_BYPASS | FLAG_CPU_FANOUT),
        (True, True, 1, FLAG_BYPASS),
        (False, True, 2, FLAG_CPU_FANOUT),
        (False, False, 2, 0),
        (True, False, 2, FLAG_BYPASS),
    ],
)
def test_fail_closed_never_bypasses_and_a_single_queue_is_not_fanned_out(
    fail_open: bool, fanout: bool, count: int, flags: int
) -> None:
    assert queue_flags(dataclasses.replace(CONFIG, fail_open=fail_open, fanout=fanout, queue_count=count)) == flags


def test_both_forms_of_the_queue_rule_carry_first_number_count_and_flags() -> None:
    compat = b"".join(replace_queue_rule(CONFIG)[-1].attributes)
    native = b"".join(replace_queue_rule(dataclasses.replace(CONFIG, form=Dataplane.NATIVE))[-1].attributes)
    assert b"target\x00" in compat
    assert b"NFQUEUE\x00" in compat
    assert b"\x64\x00\x02\x00\x02\x00\x00\x00" in compat  # host order, padded to eight bytes
    assert b"queue\x00" in native
    assert all(
        b"\x06\x00" + kind + b"\x00" + value in native for kind, value in ((b"\1", b"\0\x64"), (b"\2", b"\0\2"), (b"\3", b"\0\2"))
    )


def test_queue_statistics_ignore_columns_of_newer_kernels_and_broken_lines(tmp_path: Path) -> None:
    table = tmp_path / "nfnetlink_queue"
    table.write_text(
        "  101  28422     3 2   128     4     5       77  1\n  100  28421     0 2   128     0     0        0  1  9 9\n  102  28\n"
    )
    first, second = queue_table.read(table)
    assert (first.queue_num, first.id_sequence) == (100, 0)
    assert second == (101, 28422, 3, 2, 128, 4, 5, 77)


def test_queue_statistics_of_a_kernel_without_queues_are_empty(tmp_path: Path) -> None:
    assert queue_table.read(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("setting", "release", "early"),
    [
        (None, "6.11.9-amd64", True),
        (None, "6.12.0-rc1", False),
        (None, "5.15.0-113-generic", True),
        (None, "6.9", True),
        (None, "7.0.1", False),
        (None, "10.2.0", False),
        (None, "unknown", True),
        (True, "6.18.0", True),
        (False, "5.4.0", False),
    ],
)
def test_dns_is_evaluated_early_on_kernels_before_6_12_unless_set_otherwise(
    setting: bool | None, release: str, early: bool
) -> None:
    assert host_checks.dns_in_prerouting(setting, release) is early


@pytest.mark.parametrize("release", ["5.10.0", "5.10.0-30-amd64", "6.18.5", "10.0.1", "unknown"])
def test_a_kernel_with_the_input_interface_of_forwarded_packets_is_accepted(release: str) -> None:
    host_checks.require_supported_kernel(release)


@pytest.mark.parametrize("release", ["5.9.16", "4.18.0-553.el8_10.x86_64", "5.4.0-200-generic"])
def test_an_older_kernel_is_refused(release: str) -> None:
    with pytest.raises(KernelError, match=r"5\.10 or newer"):
        host_checks.require_supported_kernel(release)


class Bridges:
    """The files of a kernel with bridges."""

    def __init__(self, root: Path) -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        (self.sys / "class/net").mkdir(parents=True)

    def add(self, name: str, ports: tuple[str, ...] = (), own_switch: str = "0") -> None:
        bridge = self.sys / "class/net" / name
        (bridge / "bridge").mkdir(parents=True)
        (bridge / "bridge/nf_call_iptables").write_text(f"{own_switch}\n")
        (bridge / "brif").mkdir()
        for port in ports:
            (bridge / "brif" / port).touch()

    def switch(self, name: str, value: str) -> None:
        (self.proc / "sys/net/bridge").mkdir(parents=True, exist_ok=True)
        (self.proc / "sys/net/bridge" / name).write_text(f"{value}\n")

    def unfiltered(self) -> tuple[str, ...]:
        return host_checks.unfiltered_bridges(self.sys, self.proc)


@pytest.fixture
def bridges(tmp_path: Path) -> Bridges:
    return Bridges(tmp_path)


def test_bridges_with_ports_are_unfiltered_while_br_netfilter_is_not_loaded(bridges: Bridges) -> None:
    bridges.add("cni0", ports=("veth1",))
    bridges.add("empty0")
    assert bridges.unfiltered() == ("cni0",)


def test_a_bridge_is_filtered_when_the_switch_is_on_for_all_or_for_itself(bridges: Bridges) -> None:
    bridges.add("br0", ports=("veth1",))
    bridges.add("br1", ports=("veth2",), own_switch="1")
    bridges.switch("bridge-nf-call-iptables", "0")
    assert bridges.unfiltered() == ("br0",)
    bridges.switch("bridge-nf-call-iptables", "1")
    assert bridges.unfiltered() == ()


def test_a_bridge_must_also_pass_ip6_where_the_node_has_it(bridges: Bridges) -> None:
    bridges.add("br0", ports=("veth1",))
    bridges.switch("bridge-nf-call-iptables", "1")
    (bridges.proc / "sys/net/ipv6").mkdir(parents=True)
    assert bridges.unfiltered() == ("br0",)
    bridges.switch("bridge-nf-call-ip6tables", "1")
    assert bridges.unfiltered() == ()


def conntrack_files(root: Path, table: str) -> Path:
    (root / "sys/net/netfilter").mkdir(parents=True)
    (root / "sys/net/netfilter/nf_conntrack_count").write_text("250\n")
    (root / "sys/net/netfilter/nf_conntrack_max").write_text("262144\n")
    (root / "thread-self/net/stat").mkdir(parents=True)
    (root / "thread-self/net/stat/nf_conntrack").write_text(table)
    return root


def test_the_use_of_the_connection_table_adds_up_what_each_cpu_dropped(tmp_path: Path) -> None:
    table = "entries  insert drop early_drop\n000000fa 00000000 00000010 00000001\n000000fa 00000000 00000002 00000000\n"
    assert host_checks.conntrack_usage(conntrack_files(tmp_path, table)) == (250, 262144, 0x12)


@pytest.mark.parametrize("table", ["", "entries insert\n0 0\n", "entries drop\n0\n", "entries drop\n0 many\n"])
def test_a_connection_table_that_cannot_be_read_is_no_figure(tmp_path: Path, table: str) -> None:
    assert host_checks.conntrack_usage(conntrack_files(tmp_path, table)) is None


def test_a_kernel_without_connection_tracking_has_no_figure(tmp_path: Path) -> None:
    assert host_checks.conntrack_usage(tmp_path) is None
