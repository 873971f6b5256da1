"""A cluster to ask about: a store and its compiled evaluator, which evaluates equal questions once."""

from collections.abc import Iterable, Mapping, Set
from enum import StrEnum
from itertools import chain
from typing import NamedTuple

from netpolq.addresses import AddressKey, is_ipv4
from netpolq.enums import Enforcement
from netpolq.errors import NetpolqError
from netpolq.explain.compiled_evaluator import CompiledEvaluator, Pair
from netpolq.model import Pod
from netpolq.policy.evaluator import Explanation
from netpolq.reachability.ports import PortRange
from netpolq.store import Store

MAX_PAIRS = 4_000_000
MAX_EVALUATIONS = 2_000_000
"""Bounds of the time that an answer takes: each is about half a minute of one CPU."""


class Reach(StrEnum):
    """Which flows between two groups are allowed. ABSENT: there is no pair of two different addresses of one family."""

    ALL = "all"
    SOME = "some"
    NONE = "none"
    ABSENT = "absent"

    @classmethod
    def of(cls, allowed: Iterable[bool]) -> "Reach":
        """Combine the results of all pairs."""
        found = set(allowed)
        if not found:
            return cls.ABSENT
        return cls.SOME if len(found) > 1 else cls.ALL if found.pop() else cls.NONE


class Ends(NamedTuple):
    """The addresses of a flow."""

    source: AddressKey
    destination: AddressKey


class Cluster:
    """Answers questions about flows between groups of addresses. The store must not change meanwhile.

    `owners`: see `Store.address_owners`. `templates`: addresses that stand for pod templates, and are never shown. `enforcement`: whether
    policies are enforced where no annotation says; those in audit do not count.
    """

    def __init__(
        self, store: Store, templates: Set[bytes] = frozenset(), *, enforcement: Enforcement = Enforcement.ENFORCE
    ) -> None:
        self.store = store
        self.templates = templates
        self.owners: Mapping[bytes, Pod] = store.address_owners()
        self._evaluator = CompiledEvaluator(store, enforcement=enforcement)
        self._numbers: dict[Pair, int] = {}
        self._pairs: list[Pair] = []
        self._results: dict[tuple[frozenset[int], tuple[PortRange, ...]], tuple[Reach, ...]] = {}
        self._evaluated = 0
        self._representatives: dict[tuple[AddressKey, ...], tuple[AddressKey, ...]] = {}
        self._profiles: dict[AddressKey, object] = {}
        self._looked_up = 0
        self._of_pods_and_nodes = frozenset(self.owners).intersection(chain.from_iterable(store.addresses_of_nodes().values()))
        view = self._evaluator.view
        self._programs = sorted({program for _address, *programs in view.endpoints() for program in programs if program})

    def pairs(self, sources: tuple[AddressKey, ...], destinations: tuple[AddressKey, ...]) -> Mapping[int, Ends]:
        """Return the pairs of different addresses of one family, each with an example. Pairs that nothing distinguishes are one.

        Raises `NetpolqError` if the cluster is too large.
        """
        found: dict[int, Ends] = {}
        of_destinations = self._distinct(destinations)
        for source in self._distinct(sources):
            for destination in of_destinations:
                if source != destination and is_ipv4(source) == is_ipv4(destination):
                    self._count_look_ups(1)
                    pair = self._evaluator.pair(source, destination)
                    number = self._numbers.setdefault(pair, len(self._pairs))
                    if number == len(self._pairs):
                        self._pairs.append(pair)
                    found.setdefault(number, Ends(source, destination))
        return found

    def reach(self, pairs: Iterable[int], ranges: tuple[PortRange, ...]) -> tuple[Reach, ...]:
        """Return for each port range which of the pairs are allowed. Raises `NetpolqError` if the cluster is too large."""
        asked = frozenset(pairs), ranges
        results = self._results.get(asked)
        if results is None:
            self._evaluated += len(asked[0]) * len(ranges)
            if self._evaluated > MAX_EVALUATIONS:
                raise NetpolqError(
                    f"the objects need more than {MAX_EVALUATIONS} evaluations, the most for one answer; "
                    "give objects of fewer namespaces, or (with `netpolq matrix`) --port or --by namespace"
                )
            results = tuple(Reach.of(self.allows(pair, ports) for pair in asked[0]) for ports in ranges)
            self._results[asked] = results
        return results

    def allows(self, pair: int, ports: PortRange) -> bool:
        """Whether flows of a pair to a port range are allowed."""
        return self._evaluator.accepts_pair(self._pairs[pair], ports.protocol, ports.first)

    def explain(self, pair: int, ports: PortRange) -> Explanation:
        """Explain flows of a pair to a port range."""
        return self._evaluator.explain_pair(self._pairs[pair], ports.protocol, ports.first)

    def _distinct(self, addresses: tuple[AddressKey, ...]) -> tuple[AddressKey, ...]:
        """Return at most two addresses of each profile: one for pairs with others, two for the pairs among themselves."""
        distinct = self._representatives.get(addresses)
        if distinct is None:
            of_profile: dict[object, list[AddressKey]] = {}
            for address in addresses:
                same = of_profile.setdefault(self._profile(address), [])
                if len(same) < 2:
                    same.append(address)
            distinct = tuple(address for same in of_profile.values() for address in same)
            self._representatives[addresses] = distinct
        return distinct

    def _profile(self, address: AddressKey) -> object:
        """Return all that the pairs of an address depend on. Addresses of pods that are also addresses of nodes are all different."""
        profile = self._profiles.get(address)
        if profile is None:
            self._count_look_ups(len(self._programs))
            view = self._evaluator.view
            identity = view.identity(address)
            profile = (
                is_ipv4(address),
                view.programs(address),
                identity,
                tuple(tuple(map(tuple, view.candidates(program, address, identity))) for program in self._programs),
                view.own_node_addresses(address) & self._of_pods_and_nodes,
                address if address in self._of_pods_and_nodes else None,
            )
            self._profiles[address] = profile
        return profile

    def _count_look_ups(self, count: int) -> None:
        self._looked_up += count
        if self._looked_up > MAX_PAIRS:
            raise NetpolqError(
                f"there are too many pods: they need more than {MAX_PAIRS} look-ups of pairs of addresses and of policies, "
                "the most for one answer; give objects of fewer namespaces"
            )
