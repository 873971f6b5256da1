"""Retained content of a file with problems.

The last good content of the file stays in force, as the API server keeps an object whose update it refuses. The new text may deny more,
so it isolates in addition: the pods that its policies select, valid policies too, the namespaces that its unreadable parts name, and,
if those are unknown, every namespace that the file concerned before. New pods are used.

If the file was never good, its good documents are used, and the rest isolates.
"""

from dataclasses import dataclass, field, replace

from netpolq.model import Labels, NetworkPolicy, Object, Pod, Rejection
from netpolq.sources.folder import placeholders
from netpolq.sources.folder.manifest_file import Content, Located

LAST_GOOD = "the file's last good content stays in force"
BEST_SO_FAR = "what could be read of the file before stays in force"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """The content of a file that is in force. `base`: the last accepted content, good if `is_good`; `content`: with placeholders."""

    base: Content = field(default_factory=Content)
    content: Content = field(default_factory=Content)
    rejections: tuple[Rejection, ...] = ()
    is_good: bool = False

    @classmethod
    def good(cls, content: Content) -> "Retained":
        """Retain a content without problems."""
        return cls(base=content, content=content, is_good=True)

    @property
    def kept(self) -> str:
        """What stays in force, for messages."""
        return LAST_GOOD if self.is_good else BEST_SO_FAR

    def with_rejection(self, rejection: Rejection) -> "Retained":
        """The same, with another problem."""
        return replace(self, rejections=(rejection,))

    def with_broken(self, broken: Content) -> "Retained":
        """Apply the new content `broken`, which has problems."""
        if not self.base.objects or not (self.is_good or not broken.keys() >= self.base.keys()):
            return Retained(base=broken, content=broken, rejections=broken.rejections)
        known = self.base.namespaces() if broken.is_unclear else ()
        origin = broken.rejections[0].origin
        added = [*_isolating(broken, self.base, origin), *placeholders.of_namespaces(known, origin)]
        objects = {item.key: item for item in added}
        marks = {item.key: item for _document, item in broken.objects if isinstance(item, Pod)}
        kept = (Located(document, _marked_too(item, marks.get(item.key))) for document, item in self.base.objects)
        content = replace(self.base, objects=(*kept, *(Located(0, item) for item in objects.values())))
        return replace(self, content=content, rejections=tuple(self._explained(one, known) for one in broken.rejections))

    def _explained(self, rejection: Rejection, known: tuple[str, ...]) -> Rejection:
        if rejection.leaves_open:
            isolated = f"every pod of the namespaces that it concerned is isolated: {', '.join(known[:5])}"
            more = f" and {len(known) - 5} more" if len(known) > 5 else ""
            return replace(rejection, consequence=f"{self.kept}, and {isolated}{more}", leaves_open=False)
        return replace(rejection, consequence=f"{self.kept}; its new content isolates and admits nothing")


def _isolating(broken: Content, base: Content, origin: str) -> list[Object]:
    """Placeholders for the pods that the new content concerns, and its new pods."""
    known = {item.key: item for _document, item in base.objects}
    added: list[Object] = list(broken.placeholders)
    for _document, item in broken.objects:
        if isinstance(item, NetworkPolicy):
            # Most policies are the same as before, and isolate already.
            if known.get(item.key) != item and not item.name.startswith("("):
                added.append(placeholders.of_policy(item, origin))
        elif isinstance(item, Pod) and item.key not in known:
            added.append(item)
    return added


def _marked_too(item: Object, now: Object | None) -> Object:
    """The object; a pod that is now only partly readable gets the label that isolates it."""
    mark = now.labels.get(placeholders.UNREADABLE_LABEL) if isinstance(now, Pod) else None
    if mark is None or not isinstance(item, Pod):
        return item
    return replace(item, labels=Labels({**item.labels, placeholders.UNREADABLE_LABEL: mark}))
