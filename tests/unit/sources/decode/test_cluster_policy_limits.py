"""The rules of the resource definitions of cluster-wide policies, each with a value that just passes and one that just fails."""

import copy

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import pytest

from tests.support.cluster_policies import (
    EVERY_NAMESPACE,
    Body,
    admin_policy,
    baseline_policy,
    cluster_policy,
    decoded,
    paths,
    refusal,
    rule,
)


class Limit(NamedTuple):
    """A rule of a CRD: the field, one value that just passes, one that just fails, and the path of the error."""

    path: str
    passes: object
    fails: object
    error: str
    body: Callable[[], Body] = cluster_policy


def v1beta1() -> Body:
    return cluster_policy(version="v1beta1")


class Missing(Enum):
    """In place of a value: the field is removed."""

    MISSING = "missing"


MISSING = Missing.MISSING
SOME_PODS: Body = {"podSelector": {}}
BOTH_SELECTORS: Body = {"podSelector": {}, "namespaceSelector": {}}
INGRESS_RULE: Body = {"action": "Deny", "from": [EVERY_NAMESPACE]}
NAMED_PORT: Body = {"destinationNamedPort": "http"}
DISTINCT_NAMES = [f"name-{number}.example.com" for number in range(26)]
LONGEST_NAME = f"{'a.' * 121}example.com"
LONGEST_NETWORK = "0000" + ":0000" * 7
NUMBER: Body = {"destinationPort": {"number": 80}}


def named(name: object) -> list[Body]:
    return [rule(name=name)]


def to(*peers: object, **fields: object) -> list[Body]:
    return [rule("Deny", *peers, **fields)]


def networks(*texts: object) -> list[Body]:
    return to({"networks": list(texts)})


def names(*texts: object) -> list[Body]:
    return [rule("Accept", {"domainNames": list(texts)})]


def allowed_names(*texts: object) -> list[Body]:
    return [rule("Allow", {"domainNames": list(texts)})]


def of_name(passes: object, fails: object, body: Callable[[], Body] = cluster_policy) -> Limit:
    """A limit of a domain name."""
    return of_rule(names(passes), names(fails), "to[0].domainNames[0]", body)


def port(value: object, transport: str = "tcp") -> list[Body]:
    return [rule(protocols=[{transport: {"destinationPort": value}}])]


def of_rule(passes: object, fails: object, field: str, body: Callable[[], Body] = cluster_policy) -> Limit:
    """A limit of the first egress rule. `field`: the path of the error in it."""
    return Limit("spec.egress", passes, fails, f"spec.egress[0].{field}", body)


def of_port(passes: object, fails: object, field: str, body: Callable[[], Body] = cluster_policy) -> Limit:
    """A limit of the port of a protocol."""
    return of_rule(port(passes), port(fails), f"protocols[0].tcp.destinationPort{field and f'.{field}'}", body)


def of_range(passes: object, fails: object, field: str) -> Limit:
    """A limit of a range of ports."""
    return of_port({"range": passes}, {"range": fails}, f"range.{field}")


def of_ingress(passes: object, fails: object, field: str) -> Limit:
    """A limit of the peers of the first ingress rule."""
    action = {"action": "Deny"}
    return Limit("spec.ingress", [action | {"from": passes}], [action | {"from": fails}], f"spec.ingress[0].{field}")


def of_admin_port(passes: object, fails: object, field: str) -> Limit:
    """A limit of a port of v1alpha1."""
    return of_rule([rule(ports=[passes])], [rule(ports=[fails])], f"ports[0]{field and f'.{field}'}", admin_policy)


def distinct_networks(count: int) -> list[Body]:
    return networks(*(f"10.0.{number}.0/24" for number in range(count)))


def matching(**requirement: object) -> Body:
    return {"namespaces": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]} | requirement]}}


LIMITS = [
    Limit("spec.priority", 0, -1, "spec.priority"),
    Limit("spec.priority", 1000, 1001, "spec.priority"),
    Limit("spec.priority", 1, True, "spec.priority"),
    Limit("spec.priority", 1, "1", "spec.priority"),
    Limit("spec.priority", 1, MISSING, "spec.priority"),
    Limit("spec.tier", "Admin", "admin", "spec.tier"),
    Limit("spec.tier", "Baseline", MISSING, "spec.tier"),
    Limit("spec.subject", EVERY_NAMESPACE, MISSING, "spec.subject"),
    Limit("spec.subject", EVERY_NAMESPACE, {}, "spec.subject"),
    Limit("spec.subject", {"pods": SOME_PODS}, {"pods": SOME_PODS, "namespaces": {}}, "spec.subject"),
    Limit("spec.subject", {"pods": SOME_PODS}, {"pods": {"namespaceSelector": {}}}, "spec.subject.pods.podSelector"),
    Limit("spec.subject", EVERY_NAMESPACE, {"nodes": {}}, "spec.subject.nodes"),
    Limit("spec.subject", matching(), matching(operator="Is"), "spec.subject.namespaces.matchExpressions[0].operator"),
    Limit("spec.subject", matching(), matching(key=None), "spec.subject.namespaces.matchExpressions[0].key"),
    Limit("spec.ingress", [], {}, "spec.ingress"),
    Limit("spec.ingress", [INGRESS_RULE] * 25, [INGRESS_RULE] * 26, "spec.ingress"),
    Limit("spec.egress", [rule()] * 25, [rule()] * 26, "spec.egress"),
    Limit("spec.egress", [rule()], [rule(), None], "spec.egress[1]"),
    Limit("spec.egress", [rule()], ["Deny"], "spec.egress[0]"),
    of_rule([rule("Accept")], [rule("Allow")], "action"),
    of_rule([rule("Pass")], [rule(None)], "action"),
    of_rule(named("x" * 100), named("x" * 101), "name"),
    of_rule(named("zum Ärger der Übrigen"), named(3), "name"),
    of_rule([rule()], [{"action": "Deny"}], "to"),
    of_rule([rule()], [{"action": "Deny", "to": []}], "to"),
    of_rule(to(*[EVERY_NAMESPACE] * 25), to(*[EVERY_NAMESPACE] * 26), "to"),
    of_rule(to(EVERY_NAMESPACE), to({}), "to[0]"),
    of_rule(to(EVERY_NAMESPACE), to(None), "to[0]"),
    of_rule(to({"nodes": {}}), to({"nodes": {}, "namespaces": {}}), "to[0]"),
    of_rule(to({"pods": SOME_PODS}), to({"pods": {}}), "to[0].pods.podSelector"),
    of_rule(to({"nodes": {}}), to({"nodes": {"matchLabels": {"a b": ""}}}), "to[0].nodes.matchLabels"),
    of_ingress([EVERY_NAMESPACE], [], "from"),
    of_ingress([EVERY_NAMESPACE], [{"nodes": {}}], "from[0].nodes"),
    of_rule(networks("10.0.0.0/8"), networks(), "to[0].networks"),
    of_rule(distinct_networks(25), distinct_networks(26), "to[0].networks"),
    of_rule(networks("10.0.0.0/8", "10.0.0.0/9"), networks("10.0.0.0/8", "10.0.0.0/8"), "to[0].networks[1]"),
    of_rule(networks("10.0.0.0/32"), networks("10.0.0.0/33"), "to[0].networks[0]"),
    of_rule(networks("10.0.0.0/8"), networks("10.0.0.0"), "to[0].networks[0]"),
    of_rule(networks("::/128"), networks("::/129"), "to[0].networks[0]"),
    of_rule(networks("::/96"), networks("::ffff:10.0.0.0/104"), "to[0].networks[0]"),
    of_rule(networks(LONGEST_NETWORK + "/128"), networks(LONGEST_NETWORK[:30] + "255.255.255.255/128"), "to[0].networks[0]"),
    of_rule(networks("10.0.0.0/8"), networks("10.0.0.1/8"), "to[0].networks[0]", v1beta1),
    of_rule(networks("2001:db8::/32"), networks("2001:db8::1/32"), "to[0].networks[0]", v1beta1),
    of_rule(names("example.com"), names(), "to[0].domainNames"),
    of_rule(names(*DISTINCT_NAMES[:25]), names(*DISTINCT_NAMES), "to[0].domainNames"),
    of_rule(names("example.com", "example.com."), names("example.com", "example.com"), "to[0].domainNames[1]"),
    of_rule(names("example.com"), [rule("Deny", {"domainNames": ["example.com"]})], "to[0].domainNames"),
    of_rule(names("example.com"), [rule("Pass", {"domainNames": ["example.com"]})], "to[0].domainNames"),
    of_rule(names("example.com"), [rule("Accept", {"domainNames": "example.com"})], "to[0].domainNames"),
    of_rule(names("example.com"), [rule("Accept", {"domainNames": ["example.com"], "networks": ["::/0"]})], "to[0]"),
    of_ingress([EVERY_NAMESPACE], [{"domainNames": ["example.com"]}], "from[0].domainNames"),
    of_name("www.example.com", "www"),
    of_name("*.example.com", "*.com"),
    of_name("*.example.com.", "*.example.com.."),
    of_name("a.example.com", "*a.example.com"),
    of_name("*.b.example.com", "a.*.example.com"),
    of_name("WWW.Example.COM", "www example.com"),
    of_name("a-_b.example.com", "a-_.example.com"),
    of_name("1.2", "1.-2"),
    of_name("xn--bcher-kva.example", "bücher.example"),
    of_name("a.example.com", ".example.com"),
    of_name("a.example.com", "a..example.com"),
    of_name("a.example.com", "a.example.com\n"),
    of_name("a.example.com", 1.2),
    of_name("a.example.com", None),
    of_name("a.example.com", "https://a.example.com"),
    of_name("a.example.com", "[a.example.com"),
    of_name("_a._b.example.com", "^a.example.com"),
    of_name("a_b.example.com", "_a.example.com", v1beta1),
    of_name(f"{'a' * 63}.example.com", f"{'a' * 64}.example.com"),
    of_name(f"{LONGEST_NAME}.", f"a{LONGEST_NAME}"),
    of_name(LONGEST_NAME, "a." * 5000 + "com"),
    of_rule(allowed_names("example.com"), allowed_names("example"), "to[0].domainNames[0]", admin_policy),
    of_rule([rule("Allow")], allowed_names("example.com"), "to[0].domainNames", baseline_policy),
    of_rule([rule(protocols=None)], [rule(protocols=[])], "protocols"),
    of_rule([rule(protocols=[{"tcp": NUMBER}] * 25)], [rule(protocols=[{"tcp": NUMBER}] * 26)], "protocols"),
    of_rule([rule(protocols=[{"tcp": NUMBER}])], [rule(protocols=[{}])], "protocols[0]"),
    of_rule([rule(protocols=[{"tcp": NUMBER}])], [rule(protocols=[{"tcp": NUMBER, "udp": NUMBER}])], "protocols[0]"),
    of_rule([rule(protocols=[{"tcp": NUMBER}])], [rule(protocols=[{"tcp": {}}])], "protocols[0].tcp"),
    of_rule([rule(protocols=[{"tcp": {}}])], [rule(protocols=[{"tcp": 80}])], "protocols[0].tcp", v1beta1),
    of_rule([rule(protocols=[{"sctp": NUMBER}])], [rule(protocols=[{"icmp": {}}])], "protocols[0].icmp"),
    of_port({"number": 1}, {"number": 0}, "number"),
    of_rule(port({"number": 65535}, "udp"), port({"number": 65536}, "udp"), "protocols[0].udp.destinationPort.number"),
    of_port({"number": 80}, {}, ""),
    of_port({"number": 80}, {}, "", v1beta1),
    of_port({"number": 80}, {"number": 80, "range": {"start": 1, "end": 2}}, ""),
    of_range({"start": 1, "end": 2}, {"start": 2, "end": 2}, "end"),
    of_range({"start": 1, "end": 65535}, {"start": 1, "end": 65536}, "end"),
    of_range({"start": 1, "end": 2}, {"start": 0, "end": 2}, "start"),
    of_range({"start": 1, "end": 2}, {"start": 1}, "end"),
    of_range({"start": 1, "end": 2}, {"end": 2}, "start"),
    of_rule([rule(protocols=[NAMED_PORT])], [rule(protocols=[{"destinationNamedPort": ""}])], "protocols[0].destinationNamedPort"),
    of_rule(to(EVERY_NAMESPACE, protocols=[NAMED_PORT]), to({"networks": ["::/0"]}, protocols=[NAMED_PORT]), "protocols"),
    of_rule(to({"nodes": {}}, protocols=[{"tcp": NUMBER}]), to({"nodes": {}}, protocols=[{"tcp": NUMBER}, NAMED_PORT]), "protocols"),
    Limit("metadata.name", "a.b", "a_b", "metadata.name"),
    Limit("metadata.name", "default", "other", "metadata.name", baseline_policy),
    Limit("spec.priority", 1000, 1001, "spec.priority", admin_policy),
    Limit("spec.priority", MISSING, 5, "spec.priority", baseline_policy),
    Limit("spec.subject", {"pods": BOTH_SELECTORS}, {"pods": SOME_PODS}, "spec.subject.pods.namespaceSelector", admin_policy),
    Limit("spec.egress", [rule()] * 100, [rule()] * 101, "spec.egress", admin_policy),
    of_rule(to(*[EVERY_NAMESPACE] * 100), to(*[EVERY_NAMESPACE] * 101), "to", admin_policy),
    of_rule(distinct_networks(25), distinct_networks(26), "to[0].networks", admin_policy),
    of_rule([rule("Allow")], [rule("Accept")], "action", admin_policy),
    of_rule([rule("Allow")], [rule("Pass")], "action", baseline_policy),
    of_rule([rule(ports=[{"portNumber": {"port": 1}}])], [rule(ports=[])], "ports", admin_policy),
    of_admin_port({"namedPort": "a"}, {}, ""),
    of_rule([rule(ports=[{"namedPort": "a"}])], to({"nodes": {}}, ports=[{"namedPort": "a"}]), "ports", admin_policy),
    of_admin_port({"portNumber": {"port": 1}}, {"portNumber": {}}, "portNumber.port"),
    of_admin_port({"portNumber": {"port": 1, "protocol": "SCTP"}}, {"portNumber": {"port": 1, "protocol": "ICMP"}}, "portNumber.protocol"),
    of_admin_port({"portRange": {"start": 1, "end": 2}}, {"portRange": {"start": 3, "end": 2}}, "portRange.end"),
]  # fmt: skip


def with_value(limit: Limit, value: object) -> Body:
    body = copy.deepcopy(limit.body())
    *outer, last = limit.path.split(".")
    holder: object = body
    for name in outer:
        assert isinstance(holder, dict)
        holder = holder[name]
    assert isinstance(holder, dict)
    holder[last] = value
    if value is MISSING:
        del holder[last]
    return body


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.path} {str(limit.fails)[:60]}")
def test_what_a_crd_refuses_is_refused_with_its_path(limit: Limit) -> None:
    decoded(with_value(limit, limit.passes))
    error = refusal(with_value(limit, limit.fails))
    assert paths(error) == [limit.error]
