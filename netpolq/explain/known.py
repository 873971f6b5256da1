"""What is known of a cluster: its objects, and where they come from. Questions are answered from this alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from netpolq.addresses import AddressKey
from netpolq.enums import DenyWith
from netpolq.model import Rejection
from netpolq.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where objects come from. `where` completes "does not exist in …". `line`: what the text of an answer tells about the state of the
    objects, empty: nothing; `fields`: the same for JSON.
    """

    where: str = "the manifests"
    line: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The objects. `deny_with`: what a denial does where no annotation says. `rejections`: what cannot be used as written."""

    store: Store
    origin: Origin = field(default_factory=Origin)
    deny_with: DenyWith = DenyWith.DROP

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """What cannot be used as written."""
        return self.store.rejections

    def learn(self, names: Mapping[AddressKey, frozenset[str]]) -> None:
        """Add learned names."""
        for address, learned in names.items():
            self.store.set_names(address, self.store.names.get(address, frozenset()) | learned)


Read = Callable[[Sequence[str] | None], Known]
"""Reads the objects that decide about flows between ends (addresses, NAMESPACE/POD and domain names), or more; None: all objects.

Raises `NetpolqError`.
"""
