"""The policy compiler: keeps a snapshot builder up to date with a store. The cost of an event does not depend on the cluster size.

Each peer selector of a policy in use has an id, and the identity of a pod is the list of the ids that match it. A rule refers to
selectors, never to pods, so adding or removing a pod changes one address and no program. The meaning of the snapshot depends only on
the objects in the store; the ids in it also depend on earlier contents.
"""

from collections.abc import Callable, Iterator

from netpolq.addresses import AddressKey
from netpolq.enums import Direction
from netpolq.model import Pod, Rejection
from netpolq.policy.cidr_table import MAX_ENTRIES
from netpolq.policy.endpoint_policies import EndpointPolicies
from netpolq.policy.peer_classes import EXTERNAL, PeerClass, PeerClasses
from netpolq.policy.program_compiler import PeerSelector
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.program_encoder import encode_addresses
from netpolq.store import DirtySet, Store

_ADDRESSES_PER_STEP = 1000


class Compiler:
    """Keeps the snapshot builder of a store up to date.

    `is_local`: the pods to compile programs for. `with_pod_names`: also store the pod name of each address, for the packet log.
    """

    def __init__(self, store: Store, *, is_local: Callable[[Pod], bool], with_pod_names: bool = False) -> None:
        self._store = store
        self._is_local = is_local
        self._with_pod_names = with_pod_names
        self.builder = SnapshotBuilder()
        self._peer_classes = PeerClasses(self.builder)
        self._endpoints = EndpointPolicies(self.builder, self._peer_classes)
        self._class_of: dict[AddressKey, PeerClass] = {}
        self._changed: set[AddressKey] = set()

    def update(self) -> None:
        """Apply all changes of the store."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """Apply all changes of the store in steps of some milliseconds. The store may change between steps.

        After the last step the builder holds a complete state of the store, which a caller can publish before it pauses again. This
        takes the dirty set of the store, so a store can have only one compiler.
        """
        yield from self.apply_changes(self._store.take_touched())
        # Changes from the pauses are applied without a pause; otherwise a store that always changes would keep this from ending.
        for _ in self.apply_changes(self._store.take_touched()):
            pass

    def apply_changes(self, touched: DirtySet) -> Iterator[None]:
        """Apply the changes of a dirty set, in steps."""
        if not touched:
            return
        # In this order identities before and after a change use the same selector ids. A selector that comes into use or goes out of
        # use does so with a program, and the endpoints of that program are reported as changed.
        for name in sorted(touched.namespaces):
            self._changed |= self._peer_classes.label(name, self._store.namespace_labels(name))
            yield
        for done, address in enumerate(touched.addresses):
            self._move(address)
            if done % _ADDRESSES_PER_STEP == _ADDRESSES_PER_STEP - 1:
                yield
        for key in sorted(touched.policies):
            self._endpoints.put_policy(key, self._store.policies.get(key))
        yield from self._endpoints.compile()
        yield from self._peer_classes.update_identities()
        self._changed |= self._endpoints.write_endpoints()
        self.builder.collect_garbage()

    def _move(self, address: AddressKey) -> None:
        pod = self._store.owner(address)
        before = self._class_of.get(address)
        after = None if pod is None else self._peer_classes.class_of(pod)
        if before is not after:
            if after is None:
                del self._class_of[address]
            else:
                self._class_of[address] = after
            if (EXTERNAL if before is None else before.identity) != (EXTERNAL if after is None else after.identity):
                self._changed.add(address)
            self._peer_classes.move(address, before, after)
        # A pod of another node that reports an address of a local pod, rightly or not, does not remove its isolation.
        self._endpoints.move(address, next(filter(self._is_local, self._store.claimants(address)), None))
        if self._with_pod_names:
            self.builder.pod_names.set(address, "" if pod is None else f"{pod.namespace}/{pod.name}")

    def take_changed(self) -> frozenset[AddressKey]:
        """Return the addresses whose flows may have other verdicts than at the last call."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    @property
    def isolated(self) -> tuple[frozenset[AddressKey], ...]:
        """The local addresses that some policy isolates, by direction (in the order of `Direction`)."""
        return self._endpoints.isolated

    @property
    def local(self) -> frozenset[AddressKey]:
        """The addresses of all local pods."""
        return self._endpoints.local

    @property
    def rejections(self) -> list[Rejection]:
        """Rules whose IP blocks exceed the size limit of a program. One rejection for each policy and direction, sorted."""
        by_policy: dict[tuple[str, Direction], list[int]] = {}
        for rule in sorted(self._endpoints.left_out):
            by_policy.setdefault((rule.policy, rule.direction), []).append(rule.position)
        return [
            Rejection(
                origin="",
                document=0,
                key=f"NetworkPolicy {policy}",
                field=f"spec.{direction.api_name.lower()}[{positions[0]}]",
                message="with the other policies of a pod, its IP blocks and ports make more than "
                f"{MAX_ENTRIES:,} entries" + (f"; so do those of {len(positions) - 1} other rules" if positions[1:] else ""),
                consequence="these blocks admit nothing",
            )
            for (policy, direction), positions in by_policy.items()
        ]

    @property
    def selectors(self) -> dict[int, PeerSelector]:
        """The selectors in use by id."""
        return self._peer_classes.selectors


def compile_snapshot(
    store: Store, *, is_local: Callable[[Pod], bool], with_nodes: bool, with_pod_names: bool = False
) -> Compiler:
    """Compile a whole store, whatever its dirty set contains.

    `with_nodes`: also store the node addresses of every pod, which an evaluation outside the kernel needs.
    """
    compiler = Compiler(store, is_local=is_local, with_pod_names=with_pod_names)
    for _ in compiler.apply_changes(store.everything()):
        pass
    if with_nodes:
        _add_nodes(compiler.builder, store)
    return compiler


def _add_nodes(builder: SnapshotBuilder, store: Store) -> None:
    of_node = store.addresses_of_nodes()
    owners = store.address_owners()
    sets = {address: tuple(sorted({*pod.host_ips, *of_node.get(pod.node_name, ())})) for address, pod in owners.items()}
    nodes = sorted({addresses for addresses in sets.values() if addresses})
    numbers = {addresses: number for number, addresses in enumerate(nodes)}
    builder.set_nodes(
        [encode_addresses(addresses) for addresses in nodes],
        {address: numbers[addresses] for address, addresses in sets.items() if addresses},
    )
    builder.collect_garbage()
