"""Join of the pods that the API reports and of the CNI results of this node: update in, update out.

    source ── update ──►┌─────────────────┐
                        │ early addresses │── update ──► store
    folder ── results ─►└─────────────────┘

A pod of this node whose status has no address yet gets its early addresses, those in its CNI results, as its `ips`. So the API decides
which pods exist and what they are, and a file only which address such a pod has:

- The result must be of the pod's UID: a file may be older than the pod, as names are used again and files outlive a reboot.
- Of several sandboxes of a pod, the one with the newest file counts; the files of one sandbox add up.
- An address does not count while the API gives it to another pod or to this node, or while the results of two such pods claim it. A pod of
  this node that is being deleted does not keep it: its address may be that of a new pod already, as in `Store.address_owners`.

The result depends on the present pods and files only, not on the order in which they came. The code does no I/O.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain

from netpolq.addresses import AddressKey
from netpolq.model import ObjectKey, Pod, Rejection, Update
from netpolq.sources.cni_results.folder import ResultFile
from netpolq.store import reported_addresses

Identity = tuple[str, str, str]
"""Namespace, name and UID of a pod."""


class EarlyAddresses:
    """The early addresses of the pods of one node. `present_pods`: the pods of the store that report an address; the store must apply each
    update that this class returns before the next call. `total`: early addresses so far.
    """

    def __init__(self, node_name: str, present_pods: Callable[[AddressKey], Iterable[Pod]]) -> None:
        self._node_name = node_name
        self._present_pods = present_pods
        self._waiting: dict[ObjectKey, Pod] = {}
        self._early: dict[ObjectKey, tuple[AddressKey, ...]] = {}
        self._results: dict[Identity, tuple[AddressKey, ...]] = {}
        self._node_addresses: dict[ObjectKey, tuple[AddressKey, ...]] = {}
        self._rejections: tuple[Rejection, ...] = ()
        self._ignored: Mapping[str, int] = {}
        self.total = 0

    @property
    def count(self) -> int:
        """The number of early addresses at present."""
        return sum(map(len, self._early.values()))

    def of_pod(self, key: ObjectKey) -> tuple[AddressKey, ...]:
        """The early addresses of a pod at present."""
        return self._early.get(key, ())

    def on_update(self, update: Update) -> Update:
        """The update of a source with the early addresses of its pods, and with changes of those of other pods."""
        self._rejections, self._ignored = update.rejections, update.ignored
        upserted = {item.key: item for item in update.upserted}
        for key in chain(update.deleted, upserted):
            self._waiting.pop(key, None)
            self._node_addresses.pop(key, None)
        for key, item in upserted.items():
            if isinstance(item, Pod) and item.node_name == self._node_name:
                self._note(key, item)
        if not (self._waiting or self._early):
            return update
        pods = {key: item for key, item in upserted.items() if isinstance(item, Pod)}
        early = self._evaluate(pods, frozenset(update.deleted))
        changed = {key for key in self._waiting if early.get(key) != self._early.get(key) or (key in early and key in upserted)}
        self._adopt(early)
        if not changed:
            return update
        return replace(update, upserted=tuple({**upserted, **{key: self._filled(key) for key in changed}}.values()))

    def on_results(self, results: Iterable[ResultFile], observed_ns: int) -> Update | None:
        """Replace all results. Returns the update of the pods whose early addresses change; None without any, so also before the first
        update of the source.
        """
        self._results = _addresses_by_pod(results)
        early = self._evaluate({}, frozenset())
        changed = [key for key in self._waiting if early.get(key) != self._early.get(key)]
        self._adopt(early)
        if not changed:
            return None
        pods = tuple(map(self._filled, changed))
        return Update(upserted=pods, rejections=self._rejections, ignored=self._ignored, observed_ns=observed_ns)

    def _note(self, key: ObjectKey, pod: Pod) -> None:
        if pod.host_ips:
            self._node_addresses[key] = pod.host_ips
        if not (pod.ips or pod.host_network or pod.completed or pod.terminating):
            self._waiting[key] = pod

    def _filled(self, key: ObjectKey) -> Pod:
        return replace(self._waiting[key], ips=self._early.get(key, ()))

    def _adopt(self, early: dict[ObjectKey, tuple[AddressKey, ...]]) -> None:
        self.total += sum(len(set(addresses) - set(self._early.get(key, ()))) for key, addresses in early.items())
        self._early = early

    def _evaluate(
        self, upserted: Mapping[ObjectKey, Pod], deleted: frozenset[ObjectKey]
    ) -> dict[ObjectKey, tuple[AddressKey, ...]]:
        """The early addresses of each waiting pod that has any. `upserted`, `deleted`: changes that the store has not yet applied."""
        claims = {
            key: addresses
            for key, pod in self._waiting.items()
            if (addresses := self._results.get((pod.namespace, pod.name, pod.uid), ()))
        }
        if not claims:
            return {}
        claimants = Counter(chain.from_iterable(claims.values()))
        taken = {address for address in claimants if self._is_taken(address, upserted, deleted)}
        taken.update(chain.from_iterable(reported_addresses(pod) for pod in upserted.values() if self._keeps_addresses(pod)))
        taken.update(*self._node_addresses.values())
        early: dict[ObjectKey, tuple[AddressKey, ...]] = {}
        for key, addresses in claims.items():
            free = tuple(address for address in addresses if address not in taken and claimants[address] == 1)
            if free:
                early[key] = free
        return early

    def _is_taken(self, address: AddressKey, upserted: Mapping[ObjectKey, Pod], deleted: frozenset[ObjectKey]) -> bool:
        """Whether the API gives the address to a pod, as far as the pending changes do not concern that pod."""
        for pod in self._present_pods(address):
            key = pod.key
            if key not in upserted and key not in deleted and key not in self._early and self._keeps_addresses(pod):
                return True
        return False

    def _keeps_addresses(self, pod: Pod) -> bool:
        """Whether the addresses that a pod reports are its own for certain."""
        return not pod.terminating or pod.node_name != self._node_name


def _addresses_by_pod(results: Iterable[ResultFile]) -> dict[Identity, tuple[AddressKey, ...]]:
    """The addresses of the newest sandbox of each pod, in order of the time and content of their files."""
    files: dict[Identity, list[ResultFile]] = {}
    for file in sorted(results, key=lambda file: (file.modified_ns, file.result.container_id, file.result.addresses)):
        files.setdefault((file.result.namespace, file.result.name, file.result.uid), []).append(file)
    return {
        pod: tuple(
            dict.fromkeys(
                address
                for file in of_pod
                if file.result.container_id == of_pod[-1].result.container_id
                for address in file.result.addresses
            )
        )
        for pod, of_pod in files.items()
    }
