"""A real Prometheus server in the node of a box, and the shipped rules, scrape jobs and dashboard."""

import http.client
import json
import os
import re
import shutil
import socket
import time
import urllib.parse

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

import pytest
import yaml

from loadtest.testbed.box import CHECKOUT, Box

SHIPPED = CHECKOUT / "config" / "prometheus"
DASHBOARD = CHECKOUT / "config" / "grafana" / "netpolq-dashboard.json"
RULE_FILES = (SHIPPED / "recording.rules.yaml", SHIPPED / "alerts.rules.yaml")
LIMIT_S = 40.0
PORT = 9090


class Rule(TypedDict, total=False):
    """A recording or alert rule as written."""

    record: str
    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]


class _Group(TypedDict):
    rules: list[Rule]


class _RuleFile(TypedDict):
    groups: list[_Group]


class StaticConfig(TypedDict, total=False):
    """Fixed targets, with the labels that a discovery gives."""

    targets: list[str]
    labels: dict[str, str]


class Job(TypedDict, total=False):
    """An entry of `scrape_configs`; only the fields used here."""

    job_name: str
    metrics_path: str
    relabel_configs: Sequence[Mapping[str, str | Sequence[str]]]
    static_configs: list[StaticConfig]
    kubernetes_sd_configs: list[object]


class Target(TypedDict):
    """A query of a panel."""

    expr: str


class Panel(TypedDict, total=False):
    """A panel of the dashboard; only the fields used here."""

    id: int
    type: str
    title: str
    description: str
    gridPos: dict[str, int]
    targets: list[Target]


class Sample(NamedTuple):
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float


def require(program: str) -> str:
    """The path of a program of Debian's package `prometheus`. Skips the test without it, and fails where nothing may be skipped."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = f"{program} is missing (Debian's package prometheus)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def rules() -> list[Rule]:
    """All shipped rules."""
    files = [cast("_RuleFile", yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)) for path in RULE_FILES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def panels() -> list[Panel]:
    """All panels of the dashboard, the titles of its rows too."""
    return cast("list[Panel]", json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"])


def panel_questions(*, instance: str = ".*", interval: str = "5m") -> list[tuple[str, str]]:
    """Titles and expressions of the dashboard, its variables replaced."""
    values = {"$__rate_interval": interval, "$__range": interval, "$instance": instance}
    questions = []
    for panel in panels():
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            questions.append((panel["title"], expression))
    return questions


def metric_names(expression: str) -> set[str]:
    """Names of the agent's metrics in an expression, not those that recording rules make."""
    return set(re.findall(r"(?<![\w:])(?:packet|nfqueue|netpolq)_\w+(?![\w:])", expression))


def scrape_jobs() -> dict[str, Job]:
    """The shipped jobs by name, the optional one too."""
    text = re.sub(r"(?m)^#(?=  )", "", (SHIPPED / "scrape.yaml").read_text(encoding="utf-8"))
    jobs = cast("list[Job]", yaml.load(text, yaml.CSafeLoader)["scrape_configs"])
    return {job["job_name"]: job for job in jobs}


def with_static_discovery(job: Job, *found: StaticConfig) -> Job:
    """A job with these targets instead of its discovery."""
    kept = cast("Job", {key: value for key, value in job.items() if key != "kubernetes_sd_configs"})
    return {**kept, "static_configs": list(found)}


class Prometheus:
    """A server that scrapes and evaluates the shipped rules every second."""

    def __init__(self, box: Box, jobs: list[Job]) -> None:
        self._box = box
        directory = box.directory / "prometheus"
        directory.mkdir()
        self._log = directory / "log"
        config = directory / "prometheus.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(path) for path in RULE_FILES],
                    "scrape_configs": jobs,
                }
            ),
            encoding="utf-8",
        )
        argv = (
            require("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{PORT}",
        )
        self._process = box.popen(box.node.name, argv, log=self._log)
        self.wait_until("the server is ready", self._is_ready)

    def query(self, expression: str) -> list[Sample]:
        """The instant vector of an expression now. Raises `ValueError` if Prometheus rejects the expression."""
        answer = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        found = cast("dict[str, list[dict[str, object]]]", answer)["result"]
        return [Sample(cast("dict[str, str]", item["metric"]), float(cast("list[str]", item["value"])[1])) for item in found]

    def value(self, expression: str) -> float | None:
        """The single value of an expression, or None."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression}: {found}"
        return found[0].value if found else None

    def get(self, path: str) -> object:
        """The data of an answer of the API."""
        status, body = self._request(path)
        document = json.loads(body)
        if status != http.HTTPStatus.OK:
            raise ValueError(document["error"])
        return document["data"]

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises `RuntimeError` with the log when the server ends or the time is over."""
        deadline_s = time.monotonic() + LIMIT_S
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"not {what}:\n{self._log.read_text(encoding='utf-8')[-3000:]}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self._request("/-/ready")[0] == http.HTTPStatus.OK
        return False

    def _request(self, path: str) -> tuple[int, bytes]:
        with self._box.inside(self._box.node.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(("127.0.0.1", PORT))
            request = http.client.HTTPConnection("localhost")
            request.sock = connection
            request.request("GET", path, headers={"Connection": "close"})
            with request.getresponse() as response:
                return response.status, response.read()


def config_file(directory: Path, jobs: list[Job]) -> Path:
    """A configuration with these jobs alone, for promtool."""
    path = directory / "scrape.yaml"
    path.write_text(yaml.safe_dump({"scrape_configs": jobs}), encoding="utf-8")
    return path
