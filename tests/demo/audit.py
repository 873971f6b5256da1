"""The demo of observe, recommend, audit and enforce: `python -m tests.demo.audit`, as root.

A shop without policies gets policies from its traffic. Every connection is real, and every step runs the command that an operator runs.
Exit code 0: nothing wanted was cut, and what was never seen is denied at the end; 1: something was otherwise; 130: interrupted.
"""

import subprocess
import sys

from collections.abc import Sequence
from typing import NamedTuple

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import CHECKOUT, Box, Host
from loadtest.testbed.probe import Probe
from netpolq.flows.record import FlowRecord, FlowVerdict, decode
from tests.demo.terminal import Style, Terminal

NODE = Host(name="node", addresses=("192.0.2.10", "2001:db8::10"))
FRONTEND = Host(name="shop/frontend", addresses=("10.87.1.1", "fd87:1::1"), serves=(("TCP", 80),))
BACKEND = Host(name="shop/backend", addresses=("10.87.1.2", "fd87:1::2"), serves=(("TCP", 8080),))
DATABASE = Host(name="shop/db", addresses=("10.87.1.3", "fd87:1::3"), serves=(("TCP", 5432),))
BACKUP = Host(name="shop/backup", addresses=("10.87.1.4", "fd87:1::4"))
VISITOR = Host(name="ops/visitor", addresses=("10.87.2.1", "fd87:2::1"))
HOSTS = (FRONTEND, BACKEND, DATABASE, BACKUP, VISITOR)


class Connection(NamedTuple):
    """A connection between two pods."""

    source: Host
    destination: Host
    port: int

    def __str__(self) -> str:
        return f"{self.source.name} → {self.destination.name}:{self.port}"


USUAL = (
    Connection(VISITOR, FRONTEND, 80),
    Connection(FRONTEND, BACKEND, 8080),
    Connection(BACKEND, DATABASE, 5432),
)
NIGHTLY = Connection(BACKUP, DATABASE, 5432)
"""What happens only at night, and so was not seen when the policies were recommended."""

NEVER = (
    Connection(VISITOR, DATABASE, 5432),
    Connection(FRONTEND, DATABASE, 5432),
    Connection(BACKUP, BACKEND, 8080),
)


class AuditDemo:
    """The steps. `problems`: the failed expectations."""

    def __init__(self, terminal: Terminal, box: Box) -> None:
        self.problems: list[str] = []
        self._terminal = terminal
        self._box = box
        self._folder = box.directory / "manifests"

    def run(self) -> None:
        """All steps in order."""
        self._folder.mkdir()
        pods = (manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in HOSTS)
        manifests.write(self._folder / "cluster.json", [manifests.namespace("shop"), manifests.namespace("ops"), *pods])
        with Agent(self._box, self._folder, "--workers=2", "--fail-open=false") as agent:
            self._observe(agent)
            self._recommend(agent)
            self._audit(agent)
            self._enforce(agent)

    def _observe(self, agent: Agent) -> None:
        self._terminal.section("1  Observe: a policy that allows nothing, in audit, denies nothing and shows everything")
        observe = (CHECKOUT / "config/observe.yaml").read_text(encoding="utf-8").replace("namespace: default", "namespace: shop")
        self._apply(agent, observe)
        self._connect(USUAL, are_wanted=True)
        self._show_flows(agent, len(USUAL))

    def _recommend(self, agent: Agent) -> None:
        self._terminal.section("2  Recommend: the smallest set of policies that allows what was seen")
        recommended = self._command(agent, "recommend", "--namespace", "shop", "--manifests", str(self._folder), "--audit")
        for line in recommended.splitlines():
            if line.startswith(("# From", "# Verified", "kind:", "  name:")):
                self._terminal.line(f"  {line}")
        self._apply(agent, recommended)

    def _audit(self, agent: Agent) -> None:
        self._terminal.section("3  Audit: the policies deny nothing yet, and what they forgot shows")
        self._connect((*USUAL, NIGHTLY), are_wanted=True)
        forgotten = self._flows(agent, "--denied", "--from", "shop/backup", wanted=1)
        self._terminal.line(self._text(agent, "--denied", "--from", "shop/backup"))
        self._expect(
            {record.flow.verdict for record in forgotten} == {FlowVerdict.WOULD_DENY}, "the forgotten flow is would-deny"
        )
        self._terminal.section("4  Mend: recommend again, with the forgotten flow")
        mended = self._command(agent, "recommend", "--namespace", "shop", "--manifests", str(self._folder))
        self._apply(agent, mended)

    def _enforce(self, agent: Agent) -> None:
        self._terminal.section("5  Enforced: nothing that was seen is cut, and the rest is denied")
        self._connect((*USUAL, NIGHTLY), are_wanted=True)
        self._connect(NEVER, are_wanted=False)
        denied = self._flows(agent, "--denied", "--since", "30s", "--to", "shop/db", wanted=2)
        kinds = {record.flow.verdict for record in denied if record.flow.source.pod_name in {VISITOR.name, FRONTEND.name}}
        self._expect(kinds == {FlowVerdict.DENY}, "flows show what is denied, and by which policies")
        self._terminal.line(self._text(agent, "--denied", "--since", "30s", "--to", "shop/db"))

    # --- parts of steps ---------------------------------------------------------------------------------------------------------------

    def _apply(self, agent: Agent, policies: str) -> None:
        """Replace all policies in one step."""
        before = agent.status()
        complete = self._folder / ".policies"
        complete.write_text(policies, encoding="utf-8")
        complete.rename(self._folder / "policies.yaml")
        agent.wait_until_enforced(before)

    def _connect(self, connections: Sequence[Connection], *, are_wanted: bool) -> None:
        probes = [
            Probe(one.source.name, self._box.address(one.destination.name, family), "TCP", one.port)
            for one in connections
            for family in (4, 6)
        ]
        results = self._box.probe(probes)
        for number, one in enumerate(connections):
            reached = [result.reached for result in results[2 * number : 2 * number + 2]]
            word = "connects" if are_wanted else "is denied"
            self._expect(reached == [are_wanted] * 2, f"{one} {word}, over IPv4 and IPv6")

    def _expect(self, holds: bool, claim: str) -> None:
        if holds:
            self._terminal.good(claim)
        else:
            self.problems.append(claim)
            self._terminal.bad(f"not so: {claim}")

    def _show_flows(self, agent: Agent, wanted: int) -> None:
        found = self._flows(agent, wanted=wanted)
        would_deny = {record.flow.verdict for record in found} == {FlowVerdict.WOULD_DENY}
        self._expect(would_deny, f"{wanted} flows are seen, each as would-deny")
        self._terminal.line(self._text(agent))

    def _flows(self, agent: Agent, *words: str, wanted: int) -> list[FlowRecord]:
        """The records that `netpolq flows` prints, when it shows so many different connections of pods."""

        def records() -> list[FlowRecord]:
            return [decode(line) for line in self._command(agent, "flows", "-o", "json", *words).splitlines()]

        def pairs() -> set[tuple[str, str, int | None]]:
            return {(one.flow.source.pod_name, one.flow.destination.pod_name, one.flow.port) for one in records()}

        agent.wait_until("the flows are recorded", lambda: len(pairs()) >= wanted)
        return records()

    def _text(self, agent: Agent, *words: str) -> str:
        lines = self._command(agent, "flows", "-o", "text", *words).splitlines()
        return "\n".join(self._terminal.styled(f"  {line[:150]}", Style.DIM) for line in lines)

    def _command(self, agent: Agent, name: str, *words: str) -> str:
        argv = [sys.executable, "-m", "netpolq", name, "--run-dir", str(agent.run_dir), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=CHECKOUT).stdout


def run() -> list[str]:
    """The whole demo. Returns the failed expectations."""
    terminal = Terminal()
    with Box(node=NODE, hosts=list(HOSTS)) as box:
        demo = AuditDemo(terminal, box)
        demo.run()
    return demo.problems


def main() -> int:
    """Returns the exit code."""
    try:
        return 1 if run() else 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
