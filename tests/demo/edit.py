"""The time that an edit of a policy takes to come into force, measured by connections every few milliseconds."""

import time

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe, Result

POLICY = Path("policies/shop-db.yaml")
OLD = "- podSelector: {matchLabels: {app: backend}}"
NEW = "- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}"

_PORT = 5432
_EVERY_S = 0.005
_ATTEMPTS = 100
_BEFORE_EDIT_S = 0.1
_SETTLED_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds since the file was replaced; None: the event did not happen."""

    version: int
    workers: int
    acknowledged_s: float
    first_admitted_s: float | None
    last_admitted_s: float | None
    late: int


def edit(box: Box, agent: Agent, manifests: Path) -> Timing:
    """Allow the namespace ops to connect to the database instead of the backend."""
    path = manifests / POLICY
    text = path.read_text(encoding="utf-8")
    if OLD not in text:
        raise RuntimeError(f"{POLICY} does not have the line that the demo edits")
    before = agent.status()
    builder = path.with_name(".builder")
    builder.write_text(text.replace(OLD, NEW), encoding="utf-8")
    with ThreadPoolExecutor(max_workers=1) as thread:
        trying = thread.submit(box.probe, _attempts(box))
        time.sleep(_BEFORE_EDIT_S)
        edited_s = time.monotonic()
        builder.replace(path)
        status = agent.wait_until_acknowledged(before)
        acknowledged_s = time.monotonic() - edited_s
        results = trying.result()
    admitted = _since(edited_s, results, "ops/debug", reached=True)
    refused = _since(edited_s, results, "ops/debug", reached=False)
    old = _since(edited_s, results, "shop/backend", reached=True)
    settled_s = acknowledged_s + _SETTLED_S
    return Timing(
        version=status["snapshot_version"],
        workers=len(status["workers"]),
        acknowledged_s=acknowledged_s,
        first_admitted_s=min(admitted, default=None),
        last_admitted_s=max(old, default=None),
        late=sum(moment > settled_s for moment in (*refused, *old)),
    )


def _attempts(box: Box) -> list[Probe]:
    return [
        Probe(source, box.address("shop/db", 4), "TCP", _PORT, delay_s=number * _EVERY_S)
        for number in range(_ATTEMPTS)
        for source in ("shop/backend", "ops/debug")
    ]


def _since(moment_s: float, results: Sequence[Result], source: str, *, reached: bool) -> list[float]:
    return [result.started_s - moment_s for result in results if result.probe.source == source and result.reached is reached]
