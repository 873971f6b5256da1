"""The cost of the control plane in a large cluster: from an event to a sealed snapshot, without kernel and root.

A generated cluster passes the steps of a real one (JSON, replica, store, compiler, builder, memfd), in a separate process, so that its
memory can be measured.
"""

import argparse
import gc
import json
import multiprocessing
import random
import statistics
import time

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import orjson
import psutil

from loadtest import scale
from loadtest.publishing import ControlPlane, update_of
from netpolq.enums import Direction, Protocol
from netpolq.model import LabelSelector, NetworkPolicy, Pod, PodPeer, PolicyPort, PolicyRule, Update
from netpolq.sources.kubernetes.replica import Replica
from netpolq.sources.kubernetes.resources import RESOURCES
from netpolq.sources.kubernetes.watch import Changes
from netpolq.store import Store

LOCAL_PODS = 110
"""The default limit of pods on a node (`maxPods` of the kubelet)."""

_LOCAL_NAMESPACES = -(-LOCAL_PODS // scale.PODS_PER_NAMESPACE)
_PAGE_OBJECTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Durations of one step over many repetitions, in milliseconds."""

    median_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Durations":
        """Summarise."""
        return cls(
            median_ms=statistics.median(seconds) * 1e3,
            p99_ms=statistics.quantiles(seconds, n=100, method="inclusive")[98] * 1e3,
            max_ms=max(seconds) * 1e3,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneCost:
    """The cost of a cluster of one size.

    `pod_event`, `policy_event`: from an object to a compiled builder. `pod_event_sealed`, `policy_event_sealed`: to the sealed memfd.
    `publish`: the last step alone, checksums and copy. `first_image_s`: from a complete first sync to the first sealed memfd;
    `longest_step_s`: its longest step, which blocks the event loop. `rss_bytes_per_pod`: growth of resident memory, everything included.
    """

    pods: int
    policies: int
    local_policies: int
    first_image_s: float
    longest_step_s: float
    pod_event: Durations
    pod_event_sealed: Durations
    policy_event: Durations
    policy_event_sealed: Durations
    publish: Durations
    snapshot_bytes: int
    snapshot_bytes_per_pod: float
    rss_bytes_per_pod: float


def measure(*, pods: int, policies: int, local_policies: int, events: int) -> ControlPlaneCost:
    """Measure one size in a separate process. `local_policies`: number of policies in the namespaces of local pods."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_measure, (pods, policies, local_policies, events))


def _measure(pods: int, policies: int, local_policies: int, events: int) -> ControlPlaneCost:
    gc.collect()
    memory = psutil.Process()
    before_bytes = memory.memory_info().rss
    local = {_name(scale.pod(index)) for index in range(min(LOCAL_PODS, pods))}
    control = ControlPlane(is_local=lambda pod: (pod.namespace, pod.name) in local)
    control.store.apply(_first_sync(pods, policies, local_policies))
    gc.freeze()  # as the supervisor does, here and below
    started = time.perf_counter()
    longest_s = 0.0
    begun = started
    for _ in control.compile():
        longest_s = max(longest_s, time.perf_counter() - begun)
        begun = time.perf_counter()
    size = control.publish()
    first_image_s = time.perf_counter() - started
    gc.freeze()
    rng = random.Random(pods)
    pod_events = [control.event(update) for update in _pod_events(rng, control.store, events)]
    policy_events = [control.event(update) for update in _policy_events(rng, control.store, events)]
    return ControlPlaneCost(
        pods=pods,
        policies=policies,
        local_policies=local_policies,
        first_image_s=first_image_s,
        longest_step_s=longest_s,
        pod_event=Durations.of([compiled for compiled, _published in pod_events]),
        pod_event_sealed=Durations.of([sum(event) for event in pod_events]),
        policy_event=Durations.of([compiled for compiled, _published in policy_events]),
        policy_event_sealed=Durations.of([sum(event) for event in policy_events]),
        publish=Durations.of([published for _compiled, published in (*pod_events, *policy_events)]),
        snapshot_bytes=size,
        snapshot_bytes_per_pod=size / pods,
        rss_bytes_per_pod=(memory.memory_info().rss - before_bytes) / pods,
    )


# --- the cluster ------------------------------------------------------------------------------------------------------------------


def _name(body: scale.Body) -> tuple[str, str]:
    metadata = body["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("a generated body has metadata")
    return metadata["namespace"], metadata["name"]


def _bodies(pods: int, policies: int, local_policies: int) -> dict[str, Iterator[scale.Body]]:
    local_namespaces = {scale.namespace_name(index) for index in range(_LOCAL_NAMESPACES)}
    elsewhere = (body for body in scale.policies(4 * policies, pods) if _name(body)[0] not in local_namespaces)

    def all_policies() -> Iterator[scale.Body]:
        yield from scale.policies(local_policies, min(pods, LOCAL_PODS))
        for _, body in zip(range(policies - local_policies), elsewhere, strict=False):
            yield body

    return {"Namespace": scale.namespaces(pods), "Pod": scale.pods(pods), "NetworkPolicy": all_policies()}


def _first_sync(pods: int, policies: int, local_policies: int) -> Update:
    """All objects, read as pages of JSON."""
    bodies = _bodies(pods, policies, local_policies)
    complete = Changes()
    for resource in RESOURCES:
        replica = Replica(resource)
        _REPLICAS.append(replica)
        replica.begin()
        page: list[object] = []
        for body in bodies[resource.kind]:
            page.append(orjson.loads(orjson.dumps(body)))
            if len(page) == _PAGE_OBJECTS:
                replica.add_page(page)
                page = []
        replica.add_page(page)
        complete.merge(replica.complete("1"))
    return update_of((*complete.upserted.values(), *_open_to_all()))


_REPLICAS: list[Replica] = []
"""The bodies stay in memory, as in an agent: their size counts."""


def _open_to_all() -> Iterable[NetworkPolicy]:
    """Policies with the pods of all namespaces as peers: every pod of the cluster needs an entry."""
    every_pod = PodPeer(LabelSelector(), LabelSelector())
    for index in range(_LOCAL_NAMESPACES):
        yield NetworkPolicy(
            namespace=scale.namespace_name(index),
            name="open-to-all-pods",
            pod_selector=LabelSelector(),
            policy_types=frozenset({Direction.INGRESS}),
            ingress=(PolicyRule((every_pod,), None),),
        )


# --- its events -------------------------------------------------------------------------------------------------------------------


def _pod_events(rng: random.Random, store: Store, count: int) -> Iterator[Update]:
    """Pods are deleted, created with another address, and relabelled; one in ten is local."""
    keys = sorted(store.pods)
    local = [_name(scale.pod(index)) for index in range(min(LOCAL_PODS, len(keys)))]
    for number in range(count):
        key = rng.choice(local if number % 10 == 0 else keys)
        pod = store.pods.get(key)
        match number % 3:
            case 0 if pod is not None:
                yield update_of(deleted=[pod.key])
                yield update_of([_moved(pod, number)])
            case 1 if pod is not None:
                yield update_of([replace(pod, labels={**store.pods[rng.choice(keys)].labels, "release": str(number % 5)})])
            case _ if pod is not None:
                yield update_of([replace(pod, labels=store.pods[rng.choice(keys)].labels)])


def _moved(pod: Pod, number: int) -> Pod:
    return replace(pod, ips=tuple(type(address)(address[:-3] + bytes([200, *divmod(number, 256)])) for address in pod.ips))


def _policy_events(rng: random.Random, store: Store, count: int) -> Iterator[Update]:
    """Policies of local namespaces change a port, are deleted and created; every fifth event concerns another namespace."""
    local_namespaces = {scale.namespace_name(index) for index in range(_LOCAL_NAMESPACES)}
    local = sorted(key for key in store.policies if key[0] in local_namespaces and key[1] != "open-to-all-pods")
    others = sorted(key for key in store.policies if key[0] not in local_namespaces)
    for number in range(count):
        policy = store.policies.get(rng.choice(others if others and number % 5 == 0 else local))
        if policy is None:
            continue
        if number % 3 == 0:
            yield update_of(deleted=[policy.key])
            yield update_of([policy])
        else:
            port = PolicyPort(Protocol.TCP, 1024 + number)
            rules = tuple(rule._replace(ports=(port,)) for rule in policy.ingress)
            yield update_of([replace(policy, ingress=rules or (PolicyRule(None, (port,)),))])


# --- the program------------------------------------------------------------------------------------------------------------------


def whole(at_least: int) -> Callable[[str], int]:
    """A reader of whole numbers for the command line."""

    def parse(text: str) -> int:
        number = int(text)
        if number < at_least:
            raise argparse.ArgumentTypeError(f"must be at least {at_least}")
        return number

    return parse


def main() -> None:
    """Measure one size and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.controlplane", description=__doc__)
    parser.add_argument("--pods", type=whole(LOCAL_PODS), default=10_000, help="pods of the cluster (%(default)s)")
    parser.add_argument("--policies", type=whole(1), default=1_000, help="policies of the cluster (%(default)s)")
    parser.add_argument(
        "--local-policies", type=whole(1), default=100, help="policies in the namespaces of this node's pods (%(default)s)"
    )
    parser.add_argument("--events", type=whole(10), default=300, help="events of each kind (%(default)s)")
    arguments = parser.parse_args()
    cost = measure(
        pods=arguments.pods,
        policies=arguments.policies,
        local_policies=min(arguments.local_policies, arguments.policies),
        events=arguments.events,
    )
    print(json.dumps(asdict(cost), indent=2))


if __name__ == "__main__":
    main()
