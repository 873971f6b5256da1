"""The DNS servers whose answers are learned, where the settings name none: those of the cluster, and those of the node.

Any server that a pod can reach could otherwise give it the address of its choice for a name that a policy allows. Answers of other servers
reach the pod and open nothing.
"""

import ipaddress

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey, address_key
from netpolq.model import Pod

NAMESPACE = "kube-system"
SERVICES = ("kube-dns", "coredns")
"""Names of the Service of the cluster's DNS. The first is that of kubeadm and most distributions, also where CoreDNS serves it."""

_DEFAULT_SELECTOR: Mapping[str, str] = {"k8s-app": "kube-dns"}
"""Selector of that Service in kubeadm and most distributions, for an agent that cannot read Services."""

CACHE_INTERFACE = "nodelocaldns"
"""The interface on which NodeLocal DNSCache has its addresses: that of the cache, and in iptables mode that of the Service.
Source: the default of the flag -interfacename of kubernetes/dns, cmd/node-cache. Only root of the node can create an interface there."""

MAX_NAME_SERVERS = 16
"""Maximum number of entries that are read from a resolv.conf. The C library uses three (MAXNS in resolv.h)."""


class DnsService(NamedTuple):
    """A Service of the cluster's DNS. `selector`: empty if it selects no pods."""

    selector: Mapping[str, str]
    cluster_ips: tuple[AddressKey, ...]


def of_cluster(services: Collection[DnsService], pods: Iterable[Pod]) -> Iterator[AddressKey]:
    """The addresses of Services and of the pods behind them; without a Service those of pods with the usual label.

    A response has the address of the pod, or that of the Service where a load balancer in front of the kernel's rules translates it.
    A pod that is not ready gets no queries by way of the Service, so its readiness does not matter.
    """
    for service in services:
        yield from service.cluster_ips
    selectors = [service.selector for service in services if service.selector] if services else [_DEFAULT_SELECTOR]
    for pod in pods:
        if pod.namespace == NAMESPACE and not pod.completed and any(s.items() <= pod.labels.items() for s in selectors):
            yield from pod.ips


def name_servers(resolv_conf: str) -> Iterator[AddressKey]:
    """The name servers in a resolv.conf(5) that a pod can reach: none on the loopback interface. Anything else in it is skipped."""
    found = 0
    for line in resolv_conf.splitlines():
        keyword, *values = line.split()[:2] or [""]
        if keyword != "nameserver" or not values or found >= MAX_NAME_SERVERS:
            continue
        try:
            address = ipaddress.ip_address(values[0].partition("%")[0])  # a link-local address may have a zone
        except ValueError:
            continue
        found += 1
        if not (address.is_loopback or address.is_unspecified or address.is_multicast):
            yield address_key(address.packed)
