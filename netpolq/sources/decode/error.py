"""Rejection of an object: all its errors, and the object to use in its place."""

from netpolq.model import Object, Rejection
from netpolq.sources.decode.fields import Field
from netpolq.sources.decode.problems import Problems


class DecodeError(Exception):
    """An object that cannot be used as written. `field` and `message`: the first error in the order of the document; `further`: the others.

    `partial`: what to use in its place, or None. For a NetworkPolicy it isolates at least the pods that the policy would isolate and
    admits nothing; of a cluster-wide policy rules have failed closed; for a pod, namespace or node it is the readable part.
    `consequence`: the effect, for messages. `key`: the object, as far as known. `namespaces`: those that the object may concern, besides
    that of `partial`. `is_cluster_wide`: whether the object is of a kind that isolates no pods, a cluster-wide policy or a node.
    `is_harmless`: whether only something is wrong on which no isolation depends.
    """

    def __init__(
        self,
        body: Field,
        problems: Problems,
        *,
        key: str = "",
        partial: Object | None = None,
        consequence: str = "",
        namespaces: tuple[str, ...] = (),
        is_cluster_wide: bool = False,
        is_harmless: bool = False,
    ) -> None:
        first, *others = problems.reported(body)
        super().__init__("; ".join(map(str, (first, *others))) if not key else f"{key}: {'; '.join(map(str, (first, *others)))}")
        self.problems = problems
        self.field = first.path
        self.message = first.message
        self.further = tuple(map(str, others))
        self.key = key
        self.partial = partial
        self.namespaces = namespaces
        self.is_cluster_wide = is_cluster_wide
        self.is_harmless = is_harmless
        self.consequence = consequence or "it is not used"

    def rejection(
        self,
        *,
        origin: str = "",
        document: int = 0,
        key: str | None = None,
        consequence: str | None = None,
        leaves_open: bool = False,
    ) -> Rejection:
        """The rejection for log and status. `key`, `consequence`: replacements for those of the error."""
        return Rejection(
            origin=origin,
            document=document,
            key=self.key if key is None else key,
            field=self.field,
            message=self.message,
            further=self.further,
            consequence=self.consequence if consequence is None else consequence,
            leaves_open=leaves_open,
        )
