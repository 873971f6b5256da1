"""A box with a running agent and the manifests that it watches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent, Status
from loadtest.testbed.box import Box
from loadtest.testbed.manifests import Body


class Cluster:
    """The configuration of the agent of a box. `agent` is running, unless a test has stopped it."""

    def __init__(self, box: Box, agent: Agent, bodies: Sequence[Body]) -> None:
        self.box = box
        self.agent = agent
        self._fixed = list(bodies)
        self._revision = 0

    def apply(self, policies: Iterable[Body]) -> None:
        """Replace all policies, and wait until that is enforced."""
        self.replace([*self._fixed, *policies])

    def replace(self, bodies: Sequence[Body]) -> None:
        """Replace all manifests, and wait until that is enforced."""
        self._revision += 1
        # An empty namespace that is different each time: unchanged manifests would cause no change to wait for.
        revision = manifests.namespace("revision", number=str(self._revision))
        before = self._status()
        assert self.agent.manifests is not None
        manifests.write(self.agent.manifests / _FILE, [*bodies, revision])
        self.agent.wait_until_enforced(before)

    def _status(self) -> Status:
        try:
            return self.agent.status()
        except OSError as error:
            raise RuntimeError(f"the agent does not answer: {error}\n{self.agent.log.read_text(encoding='utf-8')}") from error

    @contextmanager
    def added(self, bodies: Sequence[Body]) -> Iterator[None]:
        """Add manifests in a new file, and remove it at the end; wait both times until that is enforced.

        A file that cannot be read whole is used as it is only if it has no earlier content that stays in force instead.
        """
        assert self.agent.manifests is not None
        path = self.agent.manifests / "added.json"
        before = self.agent.status()
        manifests.write(path, [*bodies, manifests.namespace("added")])  # the namespace is a change even if no policy can be used
        self.agent.wait_until_enforced(before)
        yield
        before = self.agent.status()
        path.unlink()
        self.agent.wait_until_enforced(before)


_FILE = "all.json"


@contextmanager
def running(box: Box, bodies: Sequence[Body], *flags: str) -> Iterator[Cluster]:
    """Start an agent in a box. At the end it is stopped and its rules are removed."""
    folder = box.directory / "manifests"
    folder.mkdir(exist_ok=True)
    manifests.write(folder / _FILE, bodies)
    with Agent(box, folder, *flags) as agent:
        yield Cluster(box, agent, bodies)
