"""The demo: `python -m tests.demo`, as root.

It runs the real agent in a cluster in a box, opens real connections, and removes everything at the end. Exit code 0: every result agreed
with the policies; 1: one did not; 130: interrupted.
"""

import os
import shutil
import sys
import time

from pathlib import Path

from loadtest.testbed import netns
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Result
from tests.demo import edit, expected, matrix, reasons
from tests.demo.cluster import CONFIG, NODE, hosts
from tests.demo.terminal import WIDTH, Style, Terminal

METRICS = {
    "packet_count": ('family="IPv4",protocol="TCP"', 'family="IPv6",protocol="UDP"'),
    "packet_process_time": ('_sum{family="IPv4",protocol="TCP"', '_count{family="IPv4",protocol="TCP"'),
    "packet_process_duration_microseconds": ("quantile=",),
    "nfqueue_queue_total": ("",),
    "nfqueue_queue_dropped": ("",),
    "nfqueue_user_dropped": ("",),
    "nfqueue_packet_id": ("",),
}
"""The required metrics, and the lines of each that the demo shows."""


class Demo:
    """The steps of the demo. `problems`: the failed expectations."""

    def __init__(self, terminal: Terminal, box: Box) -> None:
        self.problems: list[str] = []
        self._terminal = terminal
        self._box = box
        self._manifests = box.directory / "manifests"

    def run(self, built_s: float) -> None:
        """All steps in order."""
        self._terminal.fact("cluster", f"a node, 6 pods, 2 hosts outside; IPv4 and IPv6; built in {built_s:.1f} s")
        self._manifests.mkdir()
        shutil.copy(CONFIG / "cluster.yaml", self._manifests)
        began_s = time.monotonic()
        with Agent(self._box, self._manifests, "--workers", "2") as agent:
            queues = " and ".join(str(worker["queue_num"]) for worker in agent.status()["workers"])
            self._terminal.fact(
                "agent", f"netpolq run, 2 workers on queues {queues}; ready after {time.monotonic() - began_s:.1f} s"
            )
            self._without_policies()
            self._with_policies(agent)
            self._reasons(self._with_cluster_policies(agent))
            self._edit(agent)
            self._metrics(agent)

    def _without_policies(self) -> None:
        self._terminal.section("1  Without policies every pod reaches every host")
        matrix.legend(self._terminal)
        self._terminal.line()
        self._matrix(expected.WITHOUT_POLICIES)

    def _with_policies(self, agent: Agent) -> None:
        self._terminal.section("2  With the NetworkPolicies of config/demo/policies")
        self._add(agent, "policies", "/")
        self._matrix(expected.WITH_POLICIES)

    def _with_cluster_policies(self, agent: Agent) -> list[Result]:
        self._terminal.section("3  With the ClusterNetworkPolicies of config/demo/cluster-policies")
        self._add(agent, "cluster-policies", " ")
        return self._matrix(expected.WITH_CLUSTER_POLICIES, expected.WITH_POLICIES)

    def _add(self, agent: Agent, folder: str, separator: str) -> None:
        """Add a folder of policies to the manifests and list them. A file is named after its namespace or tier, and its policy."""
        before = agent.status()
        # One rename publishes all files at once.
        complete = self._box.directory / folder
        shutil.copytree(CONFIG / folder, complete)
        complete.rename(self._manifests / folder)
        agent.wait_until_enforced(before)
        for path in sorted(self._manifests.glob(f"{folder}/*.yaml")):
            # The first line of each file states the purpose of the policy.
            purpose = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            self._terminal.fact(path.stem.replace("-", separator, 1), purpose)
        self._terminal.line()

    def _reasons(self, results: list[Result]) -> None:
        self._terminal.section("4  Denied by: the policy that decided (netpolq explain)")
        answers = reasons.explain(self._box, self._manifests, results)
        disagreements = reasons.show(self._terminal, self._box, results, answers)
        self._terminal.line()
        self._verdict(f"explain and the network agree on all {len(results)} attempts", disagreements)

    def _edit(self, agent: Agent) -> None:
        self._terminal.section(f"5  Live edit of {edit.POLICY}")
        self._terminal.line("  The database is closed to the backend and opened to the namespace ops:")
        self._terminal.line(self._terminal.styled(f"  - {edit.OLD[2:]}", Style.BAD))
        self._terminal.line(self._terminal.styled(f"  + {edit.NEW[2:]}", Style.GOOD))
        self._terminal.line()
        timing = edit.edit(self._box, agent, self._manifests)
        self._time(timing.acknowledged_s, f"every worker ({timing.workers}) uses snapshot {timing.version}")
        self._time(timing.first_admitted_s, "first new connection debug → db that was let through")
        self._time(timing.last_admitted_s, "last new connection backend → db that was let through")
        self._terminal.line()
        results_wrong = [] if timing.first_admitted_s is not None else ["no connection debug → db was let through"]
        if timing.late:
            results_wrong.append(
                f"{timing.late} connections were evaluated with the old policy after all workers had the new one"
            )
        self.problems += results_wrong
        self._matrix(expected.AFTER_EDIT, expected.WITH_CLUSTER_POLICIES)
        for problem in results_wrong:
            self._terminal.bad(problem)

    def _metrics(self, agent: Agent) -> None:
        self._terminal.section("6  Metrics (a sample of /metrics)")
        lines = [line for line in agent.metrics().splitlines() if not line.startswith("#")]
        missing = []
        for name, patterns in METRICS.items():
            own = [line for line in lines if line.startswith(name)]
            if not own:
                missing.append(f"/metrics has no {name}")
            for line in own:
                if any(pattern in line for pattern in patterns):
                    self._terminal.line(f"  {line}")
        self._terminal.line()
        self._verdict(f"all {len(METRICS)} metrics of the kube-network-policies agent are there", missing)

    def _matrix(self, wanted: expected.Cells, before: expected.Cells | None = None) -> list[Result]:
        results = matrix.measure(self._box)
        found = matrix.cells(self._box, results)
        matrix.show(self._terminal, self._box, found, before)
        self._terminal.line()
        self._verdict(f"all {len(results)} attempts went as the policies say", list(matrix.differences(wanted, found)))
        return results

    def _verdict(self, success: str, problems: list[str]) -> None:
        if not problems:
            self._terminal.good(success)
        for problem in problems:
            self._terminal.bad(problem)
        self.problems += problems

    def _time(self, moment_s: float | None, what: str) -> None:
        shown = "never" if moment_s is None else f"{moment_s * 1000:6.1f} ms"
        self._terminal.line(f"  {self._terminal.styled(shown.rjust(10), Style.BOLD)}  {what}")


def _run(terminal: Terminal) -> list[str]:
    terminal.line(terminal.styled("netpolq: connectivity between pods before and after network policies", Style.BOLD))
    terminal.line()
    began_s = time.monotonic()
    with Box(node=NODE, hosts=hosts()) as box:
        demo = Demo(terminal, box)
        demo.run(time.monotonic() - began_s)
    left = netns.existing(box.prefix) + ([str(box.directory)] if box.directory.exists() else [])
    terminal.line()
    terminal.line(terminal.styled("─" * WIDTH, Style.DIM))
    if left:
        demo.problems.append(f"left behind: {', '.join(left)}")
    else:
        terminal.good(f"everything removed; {time.monotonic() - began_s:.1f} s in all")
        terminal.line("  See it in a browser, with traffic, until Ctrl-C: make demo-ui")
    return demo.problems


def main() -> int:
    """Run the demo."""
    terminal = Terminal()
    if os.geteuid():
        print("the demo creates network namespaces and needs root", file=sys.stderr)
        return 1
    if not Path("/proc/sys/net/ipv6").is_dir():
        print("the demo needs a kernel with IPv6", file=sys.stderr)
        return 1
    try:
        problems = _run(terminal)
    except KeyboardInterrupt:
        terminal.line("\n  interrupted; everything removed")
        return 130
    except RuntimeError as error:
        terminal.bad(str(error))
        return 1
    for problem in problems:
        print(f"demo: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
