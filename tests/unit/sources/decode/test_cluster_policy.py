"""Decoding of cluster-wide policies: valid ones, and what of the others fails closed."""

from ipaddress import ip_network

import pytest

from netpolq.enums import Action, Protocol, SelectorOperator, Tier
from netpolq.model import (
    ClusterNetworkPolicy,
    ClusterRule,
    DomainPeer,
    IPBlock,
    LabelSelector,
    NodePeer,
    PodPeer,
    PolicyPort,
    Requirement,
)
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode, decode_all
from netpolq.sources.decode.problems import MAX_CHARACTERS, MAX_REPORTED
from tests.support.cluster_policies import (
    EVERY_NAMESPACE,
    GROUP,
    Body,
    admin_policy,
    baseline_policy,
    cluster_policy,
    decoded,
    paths,
    refusal,
    rule,
)

ALL = LabelSelector()
EVERY_POD = PodPeer(ALL, ALL)
DENY_EVERYTHING = ClusterRule(Action.DENY)
NOTHING = ClusterRule(Action.ACCEPT, ())


def selector(key: str, value: str) -> LabelSelector:
    return LabelSelector((Requirement(key, SelectorOperator.IN, (value,)),))


def failed_closed(body: object) -> ClusterNetworkPolicy:
    found = refusal(body).partial
    assert isinstance(found, ClusterNetworkPolicy)
    return found


@pytest.mark.parametrize("version", ["v1alpha2", "v1beta1"])
def test_a_cluster_network_policy_of_either_version(version: str) -> None:
    body = cluster_policy(
        version=version,
        tier="Baseline",
        priority=1000,
        subject={"pods": {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "web"}}}},
        ingress=[
            {
                "name": "from the proxies, on every port",
                "action": "Accept",
                "from": [
                    {"namespaces": {"matchLabels": {"team": "a"}}},
                    {"pods": {"podSelector": {"matchLabels": {"app": "db"}}}},
                ],
            }
        ],
        egress=[
            rule(
                "Deny",
                {"networks": ["10.0.0.0/8", "2001:db8::/32"]},
                {"nodes": {"matchLabels": {"role": "db"}}},
                protocols=[
                    {"tcp": {"destinationPort": {"number": 443}}},
                    {"sctp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
                ],
            ),
            rule("Pass", protocols=[{"destinationNamedPort": "http"}]),
        ],
    )
    assert decoded(body) == ClusterNetworkPolicy(
        name="guard",
        tier=Tier.BASELINE,
        priority=1000,
        subject=PodPeer(selector("team", "a"), selector("app", "web")),
        ingress=(
            ClusterRule(
                Action.ACCEPT,
                (PodPeer(selector("team", "a"), ALL), PodPeer(ALL, selector("app", "db"))),
                None,
                "from the proxies, on every port",
            ),
        ),
        egress=(
            ClusterRule(
                Action.DENY,
                (IPBlock(ip_network("10.0.0.0/8")), IPBlock(ip_network("2001:db8::/32")), NodePeer(selector("role", "db"))),
                (PolicyPort(Protocol.TCP, 443), PolicyPort(Protocol.SCTP, 1, 9)),
            ),
            ClusterRule(Action.PASS, (EVERY_POD,), tuple(PolicyPort(protocol, "http") for protocol in Protocol)),
        ),
    )


def test_an_admin_network_policy() -> None:
    ports = [
        {"portNumber": {"protocol": "UDP", "port": 53}},
        {"portNumber": {"port": 80}},
        {"portRange": {"start": 8000, "end": 8080}},
        {"namedPort": "dns"},
    ]
    body = admin_policy(
        ingress=[{"action": "Pass", "from": [{"namespaces": {}}]}],
        egress=[rule("Allow", {"networks": ["10.0.0.0/8"]}, ports=ports[:3]), rule("Deny", ports=ports[3:])],
    )
    assert decoded(body) == ClusterNetworkPolicy(
        name="guard",
        kind="AdminNetworkPolicy",
        tier=Tier.ADMIN,
        priority=5,
        subject=EVERY_POD,
        ingress=(ClusterRule(Action.PASS, (EVERY_POD,)),),
        egress=(
            ClusterRule(
                Action.ACCEPT,
                (IPBlock(ip_network("10.0.0.0/8")),),
                (PolicyPort(Protocol.UDP, 53), PolicyPort(Protocol.TCP, 80), PolicyPort(Protocol.TCP, 8000, 8080)),
            ),
            ClusterRule(Action.DENY, (EVERY_POD,), tuple(PolicyPort(protocol, "dns") for protocol in Protocol)),
        ),
    )


def test_the_baseline_admin_network_policy_comes_after_every_cluster_network_policy_of_its_tier() -> None:
    found = decoded(baseline_policy(ingress=[{"action": "Allow", "from": [EVERY_NAMESPACE]}]))
    assert (found.qualified_name, found.tier) == ("BaselineAdminNetworkPolicy/default", Tier.BASELINE)
    assert found.priority > decoded(cluster_policy(tier="Baseline", priority=1000)).priority
    assert found.ingress == (ClusterRule(Action.ACCEPT, (EVERY_POD,)),)


def test_version_1alpha2_clears_host_bits_and_uses_equal_networks_once() -> None:
    (found,) = decoded(cluster_policy(egress=[rule("Deny", {"networks": ["10.0.0.1/8", "10.0.0.0/8", "::1/0"]})])).egress
    assert found.peers == (IPBlock(ip_network("10.0.0.0/8")), IPBlock(ip_network("::/0")))


def test_version_1beta1_has_every_port_of_a_protocol() -> None:
    (found,) = decoded(cluster_policy(version="v1beta1", egress=[rule(protocols=[{"udp": {}}])])).egress
    assert found.ports == (PolicyPort(Protocol.UDP),)


def test_domain_names_are_compared_in_one_form_and_equal_ones_are_used_once() -> None:
    names = ["WWW.Example.com", "www.example.com.", "*.EXAMPLE.org."]
    (found,) = decoded(cluster_policy(egress=[rule("Accept", {"domainNames": names}, EVERY_NAMESPACE)])).egress
    assert found.peers == (DomainPeer("www.example.com"), DomainPeer("*.example.org"), EVERY_POD)


@pytest.mark.parametrize("tier", ["Admin", "Baseline"])
def test_domain_names_are_allowed_in_both_tiers(tier: str) -> None:
    (found,) = decoded(cluster_policy(tier=tier, egress=[rule("Accept", {"domainNames": ["example.com"]})])).egress
    assert found == ClusterRule(Action.ACCEPT, (DomainPeer("example.com"),))


def test_a_rule_whose_action_is_not_clear_is_not_blamed_for_its_domain_names() -> None:
    assert paths(refusal(cluster_policy(egress=[rule("Log", {"domainNames": ["example.com"]})]))) == ["spec.egress[0].action"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\ud800", "\u2028", "\x7f"])
def test_a_rule_name_that_no_log_can_hold_is_refused_and_the_rule_is_used_without_it(name: str) -> None:
    error = refusal(cluster_policy(egress=[rule("Accept", name=name)]))
    assert "used without its name" in error.message
    assert str(error).isprintable()
    assert isinstance(error.partial, ClusterNetworkPolicy)
    assert error.partial.egress == (ClusterRule(Action.ACCEPT, (EVERY_POD,)),)
    assert error.consequence == "the rest of the policy is used"


UNCLEAR = [
    {"to": [{"foo": {}}]},
    {"to": [{}]},
    {"to": [EVERY_NAMESPACE, {"domainNames": ["example"]}]},
    {"to": [EVERY_NAMESPACE, {"domainNames": ["example.com", "bücher.example"]}]},
    {"to": [{"namespaces": {}, "foo": 1}]},
    {"to": [{"pods": {"podSelector": {}, "serviceSelector": {}}}]},
    {"to": []},
    {"to": None},
    {"protocols": [{"icmp": {}}]},
    {"protocols": [{"tcp": {"destinationPort": {"number": 1}, "sourcePort": 2}}]},
    {"protocols": [{"tcp": {"destinationPort": {"number": 1, "list": []}}}]},
    {"protocols": []},
    {"times": "09:00-17:00"},
    {"from": [EVERY_NAMESPACE]},
]  # fmt: skip


@pytest.mark.parametrize("fields", UNCLEAR, ids=str)
@pytest.mark.parametrize(
    ("action", "closed"),
    [
        ("Accept", NOTHING),
        ("Deny", DENY_EVERYTHING),
        ("Pass", DENY_EVERYTHING),
        ("Log", DENY_EVERYTHING),
        (1, DENY_EVERYTHING),
    ],
)
def test_a_rule_that_is_not_clear_fails_closed_at_its_position(action: object, closed: ClusterRule, fields: Body) -> None:
    before, after = rule("Pass", name="before"), rule("Accept", name="after")
    error = refusal(cluster_policy(egress=[before, rule(action, name="unclear") | fields, after]))
    assert isinstance(error.partial, ClusterNetworkPolicy)
    assert error.partial.egress == (
        ClusterRule(Action.PASS, (EVERY_POD,), None, "before"),
        closed._replace(name="unclear"),
        ClusterRule(Action.ACCEPT, (EVERY_POD,), None, "after"),
    )
    assert error.consequence == f"spec.egress[1] {'matches nothing' if action == 'Accept' else 'denies everything'}"
    assert all(path.startswith("spec.egress[1].") for path in paths(error))


OF_THE_POLICY = [
    ({"exemptions": []}, (Tier.BASELINE, 7)),
    ({"tier": "Cluster"}, (Tier.ADMIN, 0)),
    ({"tier": None}, (Tier.ADMIN, 0)),
    ({"priority": "high"}, (Tier.ADMIN, 0)),
    ({"priority": 1001}, (Tier.ADMIN, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "placement"), OF_THE_POLICY, ids=str)
def test_a_policy_with_an_unclear_field_of_its_own_fails_closed_in_every_rule(fields: Body, placement: tuple[Tier, int]) -> None:
    """Whatever the field changes, the policy denies at least that. A policy of unknown priority comes first."""
    ingress: list[object] = [{"action": "Accept", "from": [EVERY_NAMESPACE]}]
    body = cluster_policy(tier="Baseline", priority=7, ingress=ingress, egress=[rule("Pass"), rule("Accept"), rule("Deny")])
    assert isinstance(body["spec"], dict)
    body["spec"] |= fields
    found = failed_closed(body)
    assert (found.tier, found.priority) == placement
    assert found.ingress == (NOTHING,)
    assert found.egress == (DENY_EVERYTHING, NOTHING, DENY_EVERYTHING)


def test_an_unknown_field_beside_the_specification_counts_as_one_of_the_policy() -> None:
    assert failed_closed(cluster_policy(egress=[rule("Pass")]) | {"exceptions": []}).egress == (DENY_EVERYTHING,)


@pytest.mark.parametrize(
    "body",
    [
        cluster_policy(egress=[rule()], subject={}),
        cluster_policy(egress=[rule()], subject={"services": {}}),
        cluster_policy(egress=[rule()], subject={"namespaces": {}, "except": {}}),
        cluster_policy(egress=[rule()], subject={"namespaces": {"matchLabels": {"a": 1}}}),
        cluster_policy(egress=[rule()], subject={"namespaces": {"matchNames": []}}),
        cluster_policy("", egress=[rule()]),
        cluster_policy(egress=[rule()]) | {"metadata": None},
        cluster_policy(egress=[rule()]) | {"spec": None},
        cluster_policy(egress=[rule()]) | {"spec": [1]},
        cluster_policy(version="v1", egress=[rule()]),
        cluster_policy(egress=[rule()]) | {"apiVersion": "networking.k8s.io/v1alpha2"},
        cluster_policy(egress=[rule()]) | {"apiVersion": None},
        baseline_policy(egress=[rule()]) | {"metadata": {"name": "other"}},
    ],
    ids=str,
)  # fmt: skip
def test_a_policy_of_unclear_subject_name_or_version_cannot_be_applied(body: Body) -> None:
    error = refusal(body)
    assert error.partial is None
    assert error.consequence == "it is not used"
    assert error.rejection(key="x").leaves_open is False


def test_metadata_and_status_of_the_api_server_may_have_any_field() -> None:
    body = cluster_policy(egress=[rule()]) | {"status": {"conditions": [], "more": 1}}
    body["metadata"] = {"name": "guard", "labels": {"a": "b"}, "uid": "u", "newField": {}}
    assert isinstance(decode(body), ClusterNetworkPolicy)
    (of_manifest,) = decode_all(body)
    assert isinstance(of_manifest, DecodeError)
    assert (of_manifest.field, of_manifest.partial) == ("metadata.newField", decode(body))


def test_every_problem_is_reported_at_once_and_the_message_is_bounded() -> None:
    bad = rule("Accept", {"networks": [f"{'x' * 200}/{number}" for number in range(25)]}, name="n" * 101, more=1)
    error = refusal(cluster_policy(egress=[bad] * 25, ingress=[{}] * 25, tier="x", priority=-1, more=1))
    assert len(error.further) == MAX_REPORTED
    assert len(str(error)) < 1000 + 2 * MAX_CHARACTERS * MAX_REPORTED
    assert len(error.consequence) < 400
    assert "45 more" in error.consequence


def test_elements_beyond_the_limit_are_not_read() -> None:
    too_long: list[Body] = [{"to": [{}] * 1000}, {"protocols": [{}] * 1000}, {"to": [{"networks": ["x"] * 1000}]}]
    for fields in too_long:
        assert refusal(cluster_policy(egress=[rule() | fields])).problems.count == 26


def test_rules_beyond_the_limit_are_one_rule_that_fails_closed() -> None:
    accepting = [rule("Accept")] * 25
    assert failed_closed(cluster_policy(egress=[*accepting, rule("Accept")])).egress[25:] == ()
    for beyond in ([rule("Accept"), rule("Deny")], [None], ["x"] * 1000):
        found = failed_closed(cluster_policy(egress=[*accepting, *beyond]))
        assert found.egress[25:] == (DENY_EVERYTHING,)
        assert set(found.egress[:25]) == {ClusterRule(Action.ACCEPT, (EVERY_POD,))}


def test_a_kind_of_the_same_name_in_another_group_is_ignored() -> None:
    body = cluster_policy() | {"apiVersion": "crd.antrea.io/v1beta1"}
    assert decode(body) == Ignored("ClusterNetworkPolicy of another API group")


def test_a_list_gives_its_items_its_version() -> None:
    whole = cluster_policy("a", egress=[rule("Deny", {"networks": ["10.0.0.1/8"]})]), cluster_policy("b")
    items = [{name: value for name, value in item.items() if name in {"metadata", "spec"}} for item in whole]
    body = {"kind": "ClusterNetworkPolicyList", "apiVersion": f"{GROUP}/v1alpha2", "items": items}
    assert list(decode_all(body)) == list(map(decode, whole))
    error, second = decode_all(body | {"apiVersion": f"{GROUP}/v1beta1"})
    assert second == decode(whole[1])
    assert isinstance(error, DecodeError)
    assert error.field == "items[0].spec.egress[0].to[0].networks[0]"
    assert error.consequence == "items[0].spec.egress[0] denies everything"
