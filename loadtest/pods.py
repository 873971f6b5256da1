"""A node with an agent or a reference, and pods that communicate through real sockets.

`pod_lab` opens one. The pod of `loadtest.lab` discards packets; these pods answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest import clusters
from loadtest.subjects import Started, Subject, run
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body

SERVER = clusters.SERVER.name
OUTSIDER = Host(name="outsider", addresses=clusters.UPLINK)
"""A host outside the node, which no policy allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLab:
    """An open lab. `started`: the subject in the node."""

    box: Box
    started: Started

    def log(self, name: str) -> Path:
        """The file for the error output of a program."""
        return self.box.directory / f"{name}.log"

    def forget_connections(self) -> None:
        """Remove all connections from the node's connection table."""
        run(self.box, self.box.node.name, ["conntrack", "--flush"])


@contextmanager
def pod_lab(bodies: Iterable[Body], subject: Subject, clients: Sequence[Host] = clusters.CLIENTS) -> Iterator[PodLab]:
    """Open a lab with `clusters.SERVER`, some clients beside it on the same node, and an outsider.

    `bodies`: namespaces, pods and policies, among them the pods named here.
    """
    node = Host(name=clusters.NODE.name, addresses=clusters.NODE.addresses)
    with Box(node=node, hosts=[OUTSIDER, clusters.SERVER, *clients]) as box:
        manifests = box.directory / "manifests"
        clusters.write(manifests, bodies)
        with subject.start(box, manifests) as started:
            yield PodLab(box=box, started=started)
