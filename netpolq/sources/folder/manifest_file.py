"""Content of one manifest file: its objects, rejections and placeholders.

An object that the API server would refuse is rejected, and isolates the pods that a policy selects, a pod, or a namespace
(`placeholders.py`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from netpolq.model import Namespace, NetworkPolicy, Node, Object, ObjectKey, Pod, Rejection
from netpolq.sources.decode.concerned_namespaces import namespaces_in, namespaces_of
from netpolq.sources.decode.decoder import UNNAMED, DecodeError, Ignored, decode_all
from netpolq.sources.decode.manifest_text import read_documents
from netpolq.sources.decode.yaml_values import Document, TextError
from netpolq.sources.folder import placeholders

MAX_REJECTIONS = 50
"""Maximum number of rejections listed for one file; the rest is counted."""

ISOLATES_NOTHING = "it is not known which pods it concerns: nothing is isolated for it, and the agent is not ready"
NOT_USED = "it is not used"
_CLUSTER = ""
"""The namespace of cluster-wide objects."""
_STRUCTURE = frozenset({"apiVersion", "kind", "metadata", "spec", "items", "<<"})
"""Keys whose duplicates may mean two objects in one document."""


class Located(NamedTuple):
    """An object and the number of its document."""

    document: int
    item: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Decoded content of a file. `rejections`: its unusable parts; `objects` includes the placeholders for them."""

    objects: tuple[Located, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    def keys(self) -> frozenset[ObjectKey]:
        """The keys of its objects."""
        return frozenset(located.item.key for located in self.objects)

    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that it concerns, sorted."""
        items = (located.item for located in self.objects)
        found = {item.name if isinstance(item, Namespace) else item.key.namespace for item in items}
        return tuple(sorted(found - {_CLUSTER}))


OnIgnored = Callable[[str, int, object, str], None]
"""Gets an object of a kind that the agent does not use: the path of its file, the number of its document, its body, and what is wrong with
the document (duplicate keys), or nothing."""


def parse(origin: str, data: bytes, on_ignored: OnIgnored | None = None) -> Content:
    """The content of a file. `origin`: its path relative to the folder. `on_ignored`: called for each ignored object. Never raises."""
    builder = _ContentBuilder(origin, on_ignored)
    try:
        for document in read_documents(origin, data):
            builder.take(document)
    except TextError as error:
        # Without NUL bytes, the names of namespaces in UTF-16 are ASCII.
        builder.refuse_text(0, str(error), data.replace(b"\0", b"").decode("utf-8", "replace"))
    return builder.content()


def unreadable(origin: str, message: str) -> Content:
    """The content of a file whose bytes cannot be read."""
    builder = _ContentBuilder(origin)
    builder.refuse_text(0, message, "")
    return builder.content()


def listed(names: Collection[str]) -> str:
    """The first five names, and the number of the others, for messages."""
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class _ContentBuilder:
    """Builds the content of a file, document by document."""

    def __init__(self, origin: str, on_ignored: OnIgnored | None = None) -> None:
        self._origin = origin
        self._on_ignored = on_ignored
        self._objects: list[Located] = []
        self._rejections: list[Rejection] = []
        self._ignored: Counter[str] = Counter()
        self._isolated: dict[str, int] = {}
        self._unnamed = 0

    def content(self) -> Content:
        """The file's content."""
        whole = placeholders.of_namespaces(sorted(self._isolated), self._origin)
        return Content(
            objects=(*self._objects, *(Located(self._isolated[policy.namespace], policy) for policy in whole)),
            rejections=_clipped(self._origin, self._rejections),
            ignored=self._ignored,
        )

    def take(self, document: Document) -> None:
        """Add the objects and rejections of a document."""
        if isinstance(document.value, TextError):
            self.refuse_text(document.number, str(document.value), document.text)
            return
        items = list(decode_all(document.value))
        foreign = all(isinstance(item, Ignored) for item in items)
        if document.duplicates and not (foreign and _STRUCTURE.isdisjoint(one.key for one in document.duplicates)):
            self._refuse_duplicates(document, items)
            return
        for item in items:
            if isinstance(item, Ignored):
                self._ignored[item.kind] += 1
                if self._on_ignored is not None:
                    problem = document.duplicates[0].message if document.duplicates else ""
                    self._on_ignored(self._origin, document.number, item.body, problem)
            elif isinstance(item, DecodeError):
                self._refuse(document.number, item)
            else:
                self._objects.append(Located(document.number, item))

    def refuse_text(self, document: int, message: str, text: str) -> None:
        """Reject a text that cannot be parsed; isolate the namespaces that it names."""
        named = namespaces_in(text)
        consequence = NOT_USED if named.is_cluster_wide else self._isolate(document, named.namespaces)
        if named.namespaces and not named.is_complete:
            consequence += f"; {ISOLATES_NOTHING}"
        self._reject(document, message, consequence, leaves_open=not named.is_complete)

    def _refuse_duplicates(self, document: Document, items: list[Object | Ignored | DecodeError]) -> None:
        """Reject a document with duplicate keys: the intended one is unknown, so its policies admit nothing and its namespaces are
        isolated. Its pods, namespaces and nodes are used, because isolation needs them. A cluster-wide policy is not used.
        """
        errors = [item for item in items if isinstance(item, DecodeError)]
        named = namespaces_in(document.text)
        namespaces = set() if named.is_cluster_wide else {*named.namespaces, *namespaces_of(document.value)}
        namespaces.update(name for error in errors for name in error.namespaces)
        for item in items:
            usable = item.partial if isinstance(item, DecodeError) else item
            if isinstance(usable, Pod | Namespace | Node):
                self._objects.append(Located(document.number, usable))
            if isinstance(usable, Pod | NetworkPolicy):
                namespaces.add(usable.namespace)
        consequence = NOT_USED if named.is_cluster_wide and not namespaces else self._isolate(document.number, namespaces)
        leaves_open = not namespaces and not named.is_cluster_wide
        for duplicate in document.duplicates:
            self._reject(document.number, duplicate.message, consequence, leaves_open=leaves_open)
        for error in errors:
            self._reject_object(document.number, error, consequence, leaves_open=leaves_open)

    def _refuse(self, document: int, error: DecodeError) -> None:
        """Reject an object; use its readable part, and isolate what it concerns."""
        partial, consequence = error.partial, error.consequence
        isolates = bool(error.namespaces) or error.is_cluster_wide or error.is_harmless
        if isinstance(partial, NetworkPolicy):
            isolates = True
            if partial.name == UNNAMED:
                self._unnamed += 1
                partial = replace(partial, name=f"(unnamed {self._unnamed} of {self._origin})")
        elif isinstance(partial, Pod):
            partial, placeholder = placeholders.marked(partial, self._origin)
            self._objects.append(Located(document, placeholder))
            consequence += ", and the pod is isolated"
            # A pod without an address cannot be isolated; a host-network pod has its node's address.
            isolates = bool(partial.ips) or error.problems.roots <= {"metadata", "spec"}
        if error.namespaces:
            consequence += f"; {self._isolate(document, error.namespaces)}"
        if not isolates:
            consequence += f"; {ISOLATES_NOTHING}"
        if partial is not None:
            self._objects.append(Located(document, partial))
        self._reject_object(document, error, consequence, leaves_open=not isolates)

    def _isolate(self, document: int, namespaces: Collection[str]) -> str:
        """Isolate these namespaces. Returns the consequence."""
        for namespace in namespaces:
            self._isolated.setdefault(namespace, document)
        plural = "s" if len(namespaces) > 1 else ""
        return f"isolates every pod of namespace{plural} {listed(namespaces)}" if namespaces else ISOLATES_NOTHING

    def _reject(self, document: int, message: str, consequence: str, *, leaves_open: bool) -> None:
        self._rejections.append(
            Rejection(origin=self._origin, document=document, message=message, consequence=consequence, leaves_open=leaves_open)
        )

    def _reject_object(self, document: int, error: DecodeError, consequence: str, *, leaves_open: bool) -> None:
        self._rejections.append(
            error.rejection(origin=self._origin, document=document, consequence=consequence, leaves_open=leaves_open)
        )


def _clipped(origin: str, rejections: list[Rejection]) -> tuple[Rejection, ...]:
    if len(rejections) <= MAX_REJECTIONS:
        return tuple(rejections)
    more = Rejection(
        origin=origin,
        message=f"{len(rejections) - MAX_REJECTIONS} more problems like these",
        consequence="treated in the same way",
        leaves_open=any(rejection.leaves_open for rejection in rejections[MAX_REJECTIONS:]),
    )
    return (*rejections[:MAX_REJECTIONS], more)
