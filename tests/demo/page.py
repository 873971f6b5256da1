"""The demo with its page: `python -m tests.demo.page`, as root.

The cluster of the demo with all of its policies, some connections every few seconds, and `netpolq ui` until Ctrl-C. One more
policy is in audit, so that the page has something to warn of. Everything is removed at the end. Exit code 0: ended by Ctrl-C; otherwise
that of the page.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys

from contextlib import suppress
from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import CHECKOUT, Box
from loadtest.testbed.probe import Probe
from tests.demo.cluster import CONFIG, NODE, hosts

_PAUSE_S = 3.0
_ENDS_WITHIN_S = 10.0
_IN_AUDIT = """\
# The pod for debugging is to talk to the cluster alone. Nothing is denied yet: the page shows what would be.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: stays-inside
  namespace: ops
  annotations: {policy.netpolq.io/enforcement: audit}
spec:
  podSelector: {matchLabels: {app: debug}}
  policyTypes: [Egress]
  egress:
    - to: [{namespaceSelector: {}}]
"""

_TRAFFIC = (
    *(("shop/frontend", "shop/backend"), ("shop/backend", "shop/db"), ("shop/backend", "outside"), ("outside", "shop/frontend")),
    *(("ops/monitor", name) for name in ("shop/frontend", "shop/backend", "shop/db", "ops/dns")),
    *((name, "ops/dns") for name in ("shop/frontend", "shop/backend", "shop/db", "ops/debug")),
    *(("shop/frontend", "shop/db"), ("ops/debug", "shop/db"), ("shop/frontend", "metadata"), ("ops/debug", "outside")),
)
"""Who connects to whom, by UDP to the DNS server and by TCP to the others; some of it is denied."""


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo.page", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument(
        "--listen", default="127.0.0.1:8080", metavar="ADDRESS:PORT", help="where the page is served (%(default)s)"
    )
    listen: str = parser.parse_args().listen
    if os.geteuid():
        print("the demo creates network namespaces and needs root", file=sys.stderr)
        return 1
    print("building the cluster in a box; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt), Box(node=NODE, hosts=hosts()) as box:
        folder = box.directory / "manifests"
        _write(folder)
        with Agent(box, folder, "--workers=2") as agent:
            return _show(box, agent, listen)
    return 0


def _write(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(CONFIG / "cluster.yaml", folder)
    for policies in ("policies", "cluster-policies"):
        shutil.copytree(CONFIG / policies, folder / policies)
    (folder / "audit.yaml").write_text(_IN_AUDIT, encoding="utf-8")


def _show(box: Box, agent: Agent, listen: str) -> int:
    """Connect and serve the page until it ends, or until Ctrl-C. Returns the exit code of the page."""
    probes = [_probe(box, *ends, family) for ends in _TRAFFIC for family in (4, 6)]
    argv = [sys.executable, "-m", "netpolq", "ui", "--agent", str(agent.run_dir / "status.sock"), "--listen", listen]
    with subprocess.Popen(argv, cwd=CHECKOUT) as page:
        try:
            while page.poll() is None:
                box.probe(probes)
                with suppress(subprocess.TimeoutExpired):
                    page.wait(_PAUSE_S)
        except KeyboardInterrupt:
            return _ended(page)
        return page.returncode


def _probe(box: Box, source: str, destination: str, family: int) -> Probe:
    protocol, host = "UDP" if destination == "ops/dns" else "TCP", box.hosts[destination]
    return Probe(source, host.address(family), protocol, dict(host.serves)[protocol])


def _ended(page: "subprocess.Popen[bytes]") -> int:
    """End the page, which has had the interrupt, too, if both have one terminal. Returns 0."""
    page.send_signal(signal.SIGINT)
    try:
        page.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        page.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
