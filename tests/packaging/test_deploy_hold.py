"""The files that install the hold at boot: the unit, its script, and the init container."""

import configparser
import re
import shlex
import subprocess

import pytest
import yaml

from netpolq.errors import ExitCode
from netpolq.hold import command
from netpolq.hold.ranges import parse_ranges
from netpolq.hold.ruleset import render
from tests.support.deployment import DEPLOY, tool

UNIT = DEPLOY / "systemd" / "netpolq-hold.service"
SCRIPT = DEPLOY / "systemd" / "hold.nft"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
RANGES = "10.244.0.0/16,fd00:10:244::/56"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


def started(*, before: str = "") -> tuple[bool, str]:
    """Whether the unit's condition holds, and the tables after its start if it does. `before`: a script of nft that is applied first."""
    nft = tool("nft", "Debian's package nftables")
    service = unit()["Service"]
    condition = service["ExecCondition"].replace("/usr/sbin/nft", nft)
    start = service["ExecStart"].replace("/usr/sbin/nft", nft).replace("/etc/netpolq/hold.nft", str(SCRIPT))
    script = f"set -e; {nft} '{before}'; if {condition}; then {start}; {start}; echo started; fi; {nft} list tables"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-c", script], capture_output=True, text=True, check=True, timeout=20
    )
    first, _, rest = done.stdout.partition("\n")
    return (True, rest.strip()) if first == "started" else (False, done.stdout.strip())


def test_the_unit_installs_the_hold_and_may_be_started_again() -> None:
    assert started() == (True, "table inet netpolq_hold")


def test_the_unit_changes_nothing_where_an_agent_enforces() -> None:
    assert started(before="add table inet netpolq") == (False, "table inet netpolq")


def test_the_kubelet_waits_for_the_unit_and_requires_it() -> None:
    parser = unit()
    assert {"kubelet.service", "network-online.target"} <= set(parser["Unit"]["Before"].split())
    assert parser["Install"]["RequiredBy"] == "kubelet.service"
    assert shlex.split(parser["Service"]["ExecStart"]) == ["/usr/sbin/nft", "-f", "/etc/netpolq/hold.nft"]


def test_a_stop_of_the_unit_opens_nothing() -> None:
    service = unit()["Service"]
    assert (service["RemainAfterExit"], [key for key in service if key.startswith("ExecStop")]) == ("yes", [])


def test_the_script_is_what_the_command_prints() -> None:
    assert SCRIPT.read_text(encoding="utf-8") == render(parse_ranges(RANGES))
    assert f"hold --pod-cidrs {RANGES} --print" in README


def test_the_init_container_runs_the_command_with_what_the_agent_has(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (body for body in re.findall(r"(?ms)^```yaml\n(.*?)^```", README) if "initContainers" in body)
    (container,) = yaml.safe_load(block)["spec"]["template"]["spec"]["initContainers"]
    name, *words = container["args"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    assert name == "hold"
    assert command.main([*words, "--print"], environ) == ExitCode.OK
    assert capsys.readouterr().out == render(parse_ranges(RANGES))
    (base,), (closed,) = (
        yaml.safe_load((DEPLOY / "kustomize" / path / "daemonset.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"][
            "containers"
        ]
        for path in ("base", "overlays/fail-closed")
    )
    assert container["securityContext"].items() <= base["securityContext"].items()
    assert all(mount in closed["volumeMounts"] for mount in container["volumeMounts"]), "the volume is the agent's"
