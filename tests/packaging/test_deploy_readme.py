"""The commands, files, flags and values in deploy/README.md exist and work."""

import re
import subprocess

from pathlib import Path
from typing import TypedDict

import pytest
import yaml

from netpolq.settings.definitions import OPTIONS
from tests.support.deployment import CHART, DEPLOY, tool

TEXT = (DEPLOY / "README.md").read_text(encoding="utf-8")
OLD_PREFIX = "kube_network_policies_"
KEPT = (
    "packet_process_time_bucket",
    "packet_process_time_sum",
    "packet_process_time_count",
    "packet_process_duration_microseconds",
    "packet_process_duration_microseconds_sum",
    "packet_process_duration_microseconds_count",
    "packet_count",
    "nfqueue_queue_total",
    "nfqueue_queue_dropped",
    "nfqueue_user_dropped",
    "nfqueue_packet_id",
)
NEW = ("netpolq_workers_up", "netpolq_unjudged_packets_total", "process_cpu_seconds_total", "up")


class Relabelling(TypedDict):
    source_labels: list[str]
    regex: str
    target_label: str
    replacement: str


def blocks(start: str) -> list[str]:
    """Blocks of code that begin with a text, without their indentation."""
    found = re.findall(r"(?ms)^( *)```\w*\n(.*?)^\1```", TEXT)
    bodies = [re.sub(rf"(?m)^{indent}", "", body) for indent, body in found]
    return [body for body in bodies if body.startswith(start)]


def test_the_relabelling_gives_old_names_to_upstream_metrics_only() -> None:
    (block,) = blocks("metric_relabel_configs")
    rules: list[Relabelling] = yaml.safe_load(block)["metric_relabel_configs"]
    (rule,) = rules
    assert (rule["source_labels"], rule["target_label"], rule["replacement"]) == (["__name__"], "__name__", f"{OLD_PREFIX}$1")
    renamed = {name: match[1] for name in (*KEPT, *NEW) if (match := re.fullmatch(rule["regex"], name))}
    assert renamed == {name: name for name in KEPT}


def test_the_firewall_of_the_metrics_port_is_valid_for_nft() -> None:
    (block,) = blocks("table inet")
    nft = tool("nft", "Debian's package nftables")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", nft, "--check", "--file", "-"],
        input=block,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"deploy/[\w./-]+|(?<=`)(?:kustomize|helm|lint|image)/[\w./-]*", TEXT))))
def test_every_file_and_folder_that_is_named_exists(path: str) -> None:
    assert (DEPLOY.parent / path).exists() or (DEPLOY / path).exists()


def test_every_flag_listed_as_the_same_exists() -> None:
    same = re.findall(r"(?m)^\| `--([\w-]+)` \| (?:the same|accepted) \|", TEXT)
    assert len(same) >= 9
    assert set(same) == {option.name for option in OPTIONS if option.upstream}


def test_every_value_of_the_chart_that_is_named_exists() -> None:
    values = yaml.safe_load(Path(CHART / "values.yaml").read_text(encoding="utf-8"))
    for section, key in re.findall(r"\b(agent|image|metrics)\.([A-Za-z]+)", TEXT):
        assert key in values[section], f"{section}.{key}"
