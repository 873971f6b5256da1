"""The policies for given flows, as an agent reads them: peers, ports, DNS, addresses outside, notes."""

from typing import Any

import pytest
import yaml

from netpolq.addresses import parse_address
from netpolq.enums import Direction, Protocol
from netpolq.errors import NetpolqError
from netpolq.flows.record import OTHER_ADDRESSES, FlowRecord, FlowVerdict
from netpolq.model import NamedPort, NetworkPolicy, Node, Pod, Update
from netpolq.recommendation import Answer, Options, Request, recommended
from netpolq.store import Store
from tests.support.seen_flows import bare, outside, pod, record

WEB, DB, DNS = pod("shop/web"), pod("shop/db"), pod("kube-system/coredns", "10.200.0.2", k8s__app="kube-dns")
MONITOR = pod("ops/monitor")


def answer(*records: FlowRecord, store: Store | None = None, **request: Any) -> Answer:
    options = {key: request.pop(key) for key in ("namespace", "directions", "domain_names") if key in request}
    return recommended(list(records), Request(Options(**options), **request), store)


def specs(found: Answer, kind: str = "NetworkPolicy") -> dict[str, dict[str, Any]]:
    """The specification of each policy by namespace/name."""
    documents = [body for body in yaml.safe_load_all(found.manifests) if body["kind"] == kind]
    return {
        "/".join(filter(None, (body["metadata"].get("namespace"), body["metadata"]["name"]))): body["spec"] for body in documents
    }


def comments(found: Answer) -> str:
    """All comments, without line ends."""
    lines = [*found.header, *(line.strip().removeprefix("#").strip() for line in found.manifests.splitlines() if "#" in line)]
    return " ".join(" ".join(lines).split())


def app(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": name}}}


def in_namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def tcp(*ports: int | str) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def store_of(*objects: Pod | Node | NetworkPolicy) -> Store:
    store = Store()
    store.apply(Update(upserted=objects, ignored={}, observed_ns=0))
    return store


def test_both_ends_get_a_policy() -> None:
    assert specs(answer(record(WEB, DB, 5432))) == {
        "shop/db": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [app("web")], "ports": tcp(5432)}],
            "egress": [],
        },
        "shop/web": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [{"to": [app("db")], "ports": tcp(5432)}],
        },
    }


def test_only_the_namespace_and_the_directions_that_are_asked_for_get_policies() -> None:
    records = record(MONITOR, DB, 5432), record(WEB, DB, 5432), record(MONITOR, pod("ops/log"), 514)
    found = specs(answer(*records, namespace="shop", directions=(Direction.INGRESS,)))
    assert set(found) == {"shop/db", "shop/web"}
    assert found["shop/db"]["policyTypes"] == ["Ingress"]
    assert found["shop/db"]["ingress"] == [{"from": [app("web"), {**in_namespace("ops"), **app("monitor")}], "ports": tcp(5432)}]
    assert found["shop/web"] == {"podSelector": app("web")["podSelector"], "policyTypes": ["Ingress"], "ingress": []}


def test_replicas_are_one_peer_and_ports_of_one_peer_are_one_rule() -> None:
    replicas = [pod(f"shop/web-{number}", f"10.1.0.{number + 1}", app="web") for number in range(3)]
    found = specs(answer(*(record(end, DB, port) for end in replicas for port in (5432, 5433))))
    assert found["shop/db"]["ingress"] == [{"from": [app("web")], "ports": tcp(5432, 5433)}]


def test_evidence_is_the_sum_with_the_last_connection_as_the_example() -> None:
    """In any order of the records."""
    replicas = [pod(f"shop/web-{number}", f"10.1.0.{number + 1}", app="web") for number in range(3)]
    records = [record(end, DB, 5432, at_s=at_s, connections=2) for end, at_s in zip(replicas, (60, 180, 120), strict=True)]
    for ordered in (records, records[::-1]):
        found = comments(answer(*ordered))
        assert "6 connections, 3 flow records, last seen 2023-11-14T22:16:20Z such as shop/web-1 (10.1.0.2)" in found


def test_no_pair_that_was_not_seen_is_allowed() -> None:
    found = specs(answer(record(WEB, DB, 1), record(MONITOR, DB, 2)))
    assert len(found["shop/db"]["ingress"]) == 2


def test_consecutive_ports_become_a_range() -> None:
    found = specs(answer(*(record(WEB, DB, port) for port in (80, 81, 90, 91, 92))))
    ports = [*tcp(80, 81), {"protocol": "TCP", "port": 90, "endPort": 92}]
    assert found["shop/db"]["ingress"] == [{"from": [app("web")], "ports": ports}]


def test_many_ports_that_look_dynamic_get_a_note() -> None:
    """Only what was seen is allowed nevertheless."""
    found = answer(*(record(WEB, DB, 40000 + 2 * number) for number in range(16)))
    assert "16 ports from 32768 on look as if they were chosen at run time" in comments(found)
    assert len(specs(found)["shop/db"]["ingress"][0]["ports"]) == 16


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_dns_is_one_rule_of_its_own_with_both_protocols(protocol: str) -> None:
    found = answer(record(WEB, DNS, 53, protocol), record(WEB, DNS, 9153), record(WEB, DB, 53, "UDP"))
    both = [{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}]
    dns = {**in_namespace("kube-system"), "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    first, *rest = specs(found)["shop/web"]["egress"]
    assert first == {"to": [dns], "ports": both}
    assert {"to": [dns], "ports": tcp(9153)} in rest
    assert {"to": [app("db")], "ports": [{"protocol": "UDP", "port": 53}]} in rest
    clients = [{**in_namespace("shop"), **app("web")}]
    rules = specs(found)["kube-system/kube-dns"]["ingress"]
    assert rules == [{"from": clients, "ports": both}, {"from": clients, "ports": tcp(9153)}]
    assert "DNS: 1 connection, 1 flow record" in comments(found)


def test_a_node_local_dns_cache_is_dns() -> None:
    (rule,) = specs(answer(record(WEB, outside("169.254.20.10"), 53, "UDP")))["shop/web"]["egress"]
    assert [port["protocol"] for port in rule["ports"]] == ["TCP", "UDP"]


def test_addresses_outside_are_blocks_with_what_was_seen_in_them() -> None:
    clients = [record(outside(f"203.0.113.{number}"), WEB, 443) for number in (16, 18, 19, 30)]
    found = answer(*clients, record(outside("198.51.100.1", "client.example.com"), WEB, 443))
    assert specs(found)["shop/web"]["ingress"] == [
        {"from": [{"ipBlock": {"cidr": "198.51.100.1/32"}}, {"ipBlock": {"cidr": "203.0.113.16/28"}}], "ports": tcp(443)}
    ]
    assert "# 4 addresses seen" in found.manifests
    assert "198.51.100.1/32  # client.example.com" in found.manifests


def test_addresses_that_were_not_recorded_open_the_port_to_all_and_a_comment_says_so() -> None:
    found = answer(record(outside(OTHER_ADDRESSES), WEB, 443))
    assert specs(found)["shop/web"]["ingress"] == [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": tcp(443)}]
    assert "0.0.0.0/0  # addresses that the agent did not record one by one" in found.manifests
    six = pod("shop/six", "fd00::6")
    assert "::/0" in answer(record(outside(OTHER_ADDRESSES), six, 443)).manifests


def test_a_record_without_a_pod_at_the_address_of_a_known_pod_is_of_that_pod() -> None:
    found = answer(record(WEB, DB, 5432), record(outside(WEB.address), DB, 5433))
    assert specs(found)["shop/db"]["ingress"] == [{"from": [app("web")], "ports": tcp(5432, 5433)}]
    assert f"taken for that of the pod: {WEB.address}" in comments(found)


def test_an_address_that_two_workloads_had_is_that_of_each_in_its_records() -> None:
    first, second = pod("shop/one", "10.3.0.1"), pod("shop/two", "10.3.0.1")
    found = specs(answer(record(first, DB, 1), record(second, DB, 2)))
    assert {rule["from"][0]["podSelector"]["matchLabels"]["app"]: rule["ports"] for rule in found["shop/db"]["ingress"]} == {
        "one": tcp(1),
        "two": tcp(2),
    }


def test_icmp_is_no_rule_and_a_note_names_it() -> None:
    found = answer(record(WEB, DB, None, "ICMP", connections=3))
    assert specs(found)["shop/db"]["ingress"] == []
    assert "not expressed: ICMP from shop/web to shop/db (3 connections) cannot be allowed" in comments(found)


def test_a_pod_that_connects_to_itself_needs_no_rule() -> None:
    assert specs(answer(record(WEB, WEB), record(WEB, DB)))["shop/web"]["ingress"] == []


def test_denied_connections_are_left_out_unless_they_are_asked_for() -> None:
    records = [record(WEB, DB, number, verdict=verdict) for number, verdict in enumerate(FlowVerdict, 1)]
    found = answer(*records)
    assert specs(found)["shop/db"]["ingress"][0]["ports"] == tcp(1, 3)
    assert "Left out: 2 flow records of denied connections." in found.header
    assert specs(answer(*records, include_denied=True))["shop/db"]["ingress"][0]["ports"] == [
        {"protocol": "TCP", "port": 1, "endPort": 4}
    ]


def test_a_denial_at_every_port_names_no_port() -> None:
    found = answer(record(WEB, DB, None, verdict=FlowVerdict.DENY), record(WEB, DB, 1), include_denied=True)
    assert "TCP from shop/web to shop/db (1 connection) was denied at every port" in comments(found)


def test_since_counts_from_the_newest_record() -> None:
    records = record(WEB, DB, 1, at_s=0), record(WEB, DB, 2, at_s=100), record(WEB, DB, 3, at_s=160)
    assert specs(answer(*records, since_s=60))["shop/db"]["ingress"][0]["ports"] == tcp(2, 3)


def test_pods_without_labels_get_no_policy_and_are_peers_by_the_absence_of_labels() -> None:
    found = answer(record(bare("shop/debug", "10.4.0.1"), DB, 5432))
    assert set(specs(found)) == {"shop/db"}
    expected = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}
    assert specs(found)["shop/db"]["ingress"] == [{"from": [expected], "ports": tcp(5432)}]
    assert "no policy for shop/debug: without labels that last" in comments(found)


def test_only_pods_without_labels_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(NetpolqError, match="add a label such as"):
        answer(record(bare("shop/debug", "10.4.0.1"), outside("192.0.2.1"), 443))


def test_selectors_leave_out_idle_pods_of_manifests() -> None:
    idle = Pod(namespace="shop", name="idle", labels={"app": "db", "tier": "test"}, ips=())
    found = specs(answer(record(WEB, DB, 5432), store=store_of(idle)))
    assert found["shop/db"]["podSelector"] == {
        "matchLabels": {"app": "db"},
        "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
    }


def with_ports(name: str, *ports: NamedPort) -> Pod:
    return Pod(namespace="shop", name=f"{name}-x", labels={"app": name}, ips=(), named_ports=ports)


def test_ports_have_the_names_that_manifests_give_them() -> None:
    sql = NamedPort("sql", Protocol.TCP, 5432)
    found = answer(record(WEB, DB, 5432), record(WEB, DB, 9187), store=store_of(with_ports("db", sql)))
    assert specs(found)["shop/db"]["ingress"] == [{"from": [app("web")], "ports": tcp("sql", 9187)}]
    assert specs(found)["shop/web"]["egress"] == [{"to": [app("db")], "ports": tcp("sql", 9187)}]
    assert "named ports: sql = 5432" in comments(found)


def test_a_name_joins_destinations_and_gives_way_where_numbers_are_fewer_rules() -> None:
    http = NamedPort("http", Protocol.TCP, 80)
    api, old = pod("shop/api"), pod("shop/old")
    joined = store_of(with_ports("db", http), with_ports("api", http._replace(port=8080)))
    found = specs(answer(record(WEB, DB, 80), record(WEB, api, 8080), store=joined))
    assert found["shop/web"]["egress"] == [{"to": [app("api"), app("db")], "ports": tcp("http")}]
    found = specs(answer(record(WEB, DB, 80), record(WEB, old, 80), store=store_of(with_ports("db", http))))
    assert found["shop/web"]["egress"] == [{"to": [app("db"), app("old")], "ports": tcp(80)}]


def test_nodes_and_policies_of_manifests_are_named() -> None:
    store = store_of(Node(name="node-a", labels={}, addresses=(parse_address("192.0.2.10"),)))
    found = answer(record(WEB, outside("192.0.2.10"), 6443), store=store)
    assert "192.0.2.10/32  # node node-a" in found.manifests


def test_names_of_addresses_are_rules_of_a_cluster_wide_policy_if_asked_for() -> None:
    records = record(WEB, outside("192.0.2.1", "api.example.com"), 443), record(WEB, outside("192.0.2.2"), 443)
    plain_answer = answer(*records)
    assert specs(plain_answer, "ClusterNetworkPolicy") == {}
    assert "192.0.2.1/32  # api.example.com" in plain_answer.manifests
    found = answer(*records, domain_names=True)
    assert specs(found)["shop/web"]["egress"] == [{"to": [{"ipBlock": {"cidr": "192.0.2.2/32"}}], "ports": tcp(443)}]
    assert specs(found, "ClusterNetworkPolicy") == {
        "shop.web": {
            "tier": "Admin",
            "priority": 900,
            "subject": {"pods": {**in_namespace("shop"), **app("web")}},
            "egress": [
                {
                    "name": "seen-names-1",
                    "action": "Accept",
                    "to": [{"domainNames": ["api.example.com"]}],
                    "protocols": [{"tcp": {"destinationPort": {"number": 443}}}],
                }
            ],
        }
    }


def test_a_name_that_a_policy_cannot_have_stays_a_comment() -> None:
    found = answer(record(WEB, outside("192.0.2.1", "localhost"), 443), domain_names=True)
    assert "192.0.2.1/32  # localhost" in found.manifests
    assert specs(found, "ClusterNetworkPolicy") == {}


def test_too_many_names_stay_addresses() -> None:
    records = [record(WEB, outside(f"192.0.2.{number}", f"n{number}.example.com"), 443) for number in range(26)]
    assert specs(answer(*records, domain_names=True), "ClusterNetworkPolicy") == {}
    assert specs(answer(*records[:25], domain_names=True), "ClusterNetworkPolicy") != {}


def test_policies_of_one_name_get_a_part_of_a_hash() -> None:
    found = specs(answer(record(pod("shop/a", app="Web"), pod("shop/b", app="web"), 80)))
    assert len(found) == 2
    assert all(name.startswith("shop/web-") for name in found)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no flow records; let the agents record flows"),
        ([record(WEB, DB, verdict=FlowVerdict.DENY)], "1 record of denied connections (--include-denied takes them as wanted)"),
        ([record(outside("192.0.2.1"), outside("192.0.2.2"))], "1 record without a known pod"),
        ([record(WEB, WEB)], "only connections of pods to themselves"),
    ],
)
def test_nothing_to_recommend_is_an_error_that_says_why(records: list[FlowRecord], message: str) -> None:
    with pytest.raises(NetpolqError) as caught:
        answer(*records)
    assert message in str(caught.value)
