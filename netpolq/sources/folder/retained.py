"""Retained content of a file with problems.

The last good content of the file stays in force, as the API server keeps an object whose update it refuses. The new text may deny more,
so it isolates in addition: the pods that its policies select, valid policies too, the namespaces that its unreadable parts name, and,
if those are unknown, every namespace that the file concerned before. New pods and nodes are used. A cluster-wide policy that the file
did not have is added with its denials alone; one that it had stays as it was, because another of its versions cannot be added to it.

If the file was never good, its good documents are used, and the rest isolates.
"""

from dataclasses import dataclass, field, replace

from netpolq.model import ClusterNetworkPolicy, Labels, NetworkPolicy, Node, Object, ObjectKey, Pod, Rejection
from netpolq.sources.folder import placeholders
from netpolq.sources.folder.manifest_file import Content, Located, listed

LAST_GOOD = "the file's last good content stays in force"
BEST_SO_FAR = "what could be read of the file before stays in force"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """The content of a file. `base`: the last accepted one, good if it has no rejections. `content`: the one in force, which is `base` with
    the placeholders and rejections of newer content.
    """

    base: Content = field(default_factory=Content)
    content: Content = field(default_factory=Content)

    def updated(self, new: Content) -> "Retained":
        """With the new content of the file: accepted, or only its placeholders."""
        base = self.base
        if not new.rejections or not base.objects or (base.rejections and not self.loses(new)):
            return Retained(base=new, content=new)
        concerned = base.namespaces() if any(rejection.leaves_open for rejection in new.rejections) else ()
        return replace(
            self,
            content=replace(
                base,
                objects=_with_placeholders(base, new, concerned),
                rejections=tuple(self._explained(rejection, concerned) for rejection in new.rejections),
            ),
        )

    def loses(self, new: Content) -> bool:
        """Whether the new content lacks an object of the accepted one."""
        return not new.keys() >= self.base.keys()

    def is_spoiled_by(self, new: Content) -> bool:
        """Whether the new content lacks objects of the accepted one, or has problems beside them."""
        return bool(self.base.objects) and (self.loses(new) or bool(new.rejections))

    def with_rejection(self, origin: str, message: str) -> "Retained":
        """The same content, with this problem of the file alone."""
        rejections = (Rejection(origin=origin, message=message, consequence=self._kept),)
        return (
            self if self.content.rejections == rejections else replace(self, content=replace(self.content, rejections=rejections))
        )

    @property
    def _kept(self) -> str:
        return BEST_SO_FAR if self.base.rejections else LAST_GOOD

    def _explained(self, rejection: Rejection, concerned: tuple[str, ...]) -> Rejection:
        if rejection.leaves_open and not concerned:
            return replace(rejection, consequence=self._kept, leaves_open=False)
        if rejection.leaves_open:
            isolated = f"every pod of the namespaces that it concerned is isolated: {listed(concerned)}"
            return replace(rejection, consequence=f"{self._kept}, and {isolated}", leaves_open=False)
        return replace(rejection, consequence=f"{self._kept}; its new content isolates and admits nothing")


def _with_placeholders(base: Content, new: Content, concerned: tuple[str, ...]) -> tuple[Located, ...]:
    """The objects of `base`, and after them what isolates the pods that the new content concerns, and its new pods."""
    origin = new.rejections[0].origin
    known = {item.key: item for _document, item in base.objects}
    marks: dict[ObjectKey, str] = {}
    added: dict[ObjectKey, Object] = {}
    for document, item in new.objects:
        match item:
            case Pod() | Node() if item.key not in known:
                added.setdefault(item.key, item)
            case ClusterNetworkPolicy() if item.key not in known:
                denying = placeholders.of_cluster_policy(item, origin)
                added.setdefault(denying.key, denying)
            case Pod() if mark := item.labels.get(placeholders.UNREADABLE_LABEL):
                marks[item.key] = mark
            # Most policies are the same as before, and isolate already.
            case NetworkPolicy() if known.get(item.key) != item:
                isolating = placeholders.of_policy(item, origin)
                if added.get(isolating.key, isolating) != isolating:
                    isolating = placeholders.of_policy(item, f"{origin} document {document}")
                added[isolating.key] = isolating
    for placeholder in placeholders.of_namespaces(concerned, origin):
        added[placeholder.key] = placeholder
    kept = (Located(document, _marked(item, marks.get(item.key))) for document, item in base.objects)
    return (*kept, *(Located(0, item) for key, item in added.items() if key not in known))


def _marked(item: Object, mark: str | None) -> Object:
    """The object; a pod that is now only partly readable gets the label that isolates it."""
    if mark is None or not isinstance(item, Pod):
        return item
    return replace(item, labels=Labels({**item.labels, placeholders.UNREADABLE_LABEL: mark}))
