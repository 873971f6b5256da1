"""The soak: an agent under traffic while policies and pods change, processes are killed, and other agents take over.

`python -m tests.soak`, as root. Exit code 0: every check passed; 1: one failed, and the report names it; 130: interrupted.
"""

import argparse
import json
import statistics
import sys
import time

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe, Result
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER
from tests.soak.world import World, disturb_until

_ROUND_S = 5.0
_CONNECTIONS_PER_S = 40
_WINDOW_S = 3.5
"""A SYN is repeated after one second and again two later: no allowed client may wait longer than two repetitions."""

_PAUSE_S = 0.1
_GROWTH = 1.25
_GROWTH_BYTES = 8 * 2**20
_GROWTH_DESCRIPTORS = 20
"""A supervisor has additional ones for each client and for each program that it runs."""

_MIN_FIGURES = 9


@dataclass(slots=True)
class Report:
    """The result of a soak. `broken`: failed checks, with the evidence."""

    minutes: float
    fail_open: bool
    seed: int
    connections: dict[str, int] = field(default_factory=lambda: {"admitted": 0, "lost datagrams": 0, "denied": 0})
    happened: dict[str, int] = field(default_factory=dict)
    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    descriptors: dict[str, list[float]] = field(default_factory=dict)
    failed_packets: float = 0.0
    broken: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, print the report and write it to a file. Returns the exit code."""
    options = _options(arguments)
    report = Report(minutes=options.minutes, fail_open=options.fail_open, seed=options.seed)
    try:
        with Box(node=NODE, hosts=[SERVER, FRIEND, STRANGER]) as box:
            world = World(box, f"--fail-open={str(options.fail_open).lower()}", seed=options.seed)
            try:
                _soak(box, world, report)
            finally:
                world.close()
    except KeyboardInterrupt:
        return 130
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    print(f"\n{_text(report)}\nwritten to {options.output}")
    return 1 if report.broken else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long (default 3; a release takes 30)")
    parser.add_argument("--fail-open", action="store_true", help="an agent that fails open (default: closed)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens (default 0)")
    parser.add_argument("--output", type=Path, default=Path("build/soak/report.json"), help="where the report goes, as JSON")
    return parser.parse_args(arguments)


def _soak(box: Box, world: World, report: Report) -> None:
    began_s = time.monotonic()
    end_s = began_s + report.minutes * 60
    with ThreadPoolExecutor(max_workers=1) as thread:
        disturbing = thread.submit(disturb_until, world, end_s, _PAUSE_S)
        while time.monotonic() < end_s and not disturbing.done():
            _evaluate(box.probe(_probes(box), _WINDOW_S), report)
            _measure(world, report)
            report.happened = dict(world.counts)
            print(f"soak: {time.monotonic() - began_s:4.0f} of {report.minutes * 60:.0f} s: {_counts(report)}", flush=True)
        disturbing.result()
    log = world.log.read_text(encoding="utf-8", errors="replace")
    if "Traceback" in log:
        report.broken.append(f"a traceback in the log: {log.split('Traceback')[1][:500]}")
    _compare(report)


def _probes(box: Box) -> list[Probe]:
    return [
        Probe(client.name, box.address(SERVER.name, family), protocol, 80, delay_s=number / _CONNECTIONS_PER_S)
        for number in range(int(_ROUND_S * _CONNECTIONS_PER_S))
        for client in (FRIEND, STRANGER)
        for family in (4 + 2 * (number % 2),)
        for protocol in (("TCP", "UDP")[number // 2 % 2],)
    ]


def _evaluate(results: Sequence[Result], report: Report) -> None:
    for result in results:
        probe = result.probe
        if probe.source == STRANGER.name:
            report.connections["denied"] += 1
            if result.reached:
                report.broken.append(f"denied, and it passed: {probe}")
        elif result.reached:
            report.connections["admitted"] += 1
        elif probe.protocol == "UDP":
            # In fail-closed mode, packets that a dead worker had read are dropped, and datagrams are not sent again.
            report.connections["lost datagrams"] += 1
        else:
            report.broken.append(f"allowed, and not let through within {_WINDOW_S} s: {probe}")


def _measure(world: World, report: Report) -> None:
    processes = world.processes()
    if not (processes["supervisor"] and processes["workers"] and world.is_ready()):
        return  # one of them is being replaced, and a new process uses little memory
    with suppress(psutil.NoSuchProcess):
        sizes = {name: max(int(one.memory_info().rss) for one in found) for name, found in processes.items()}
        descriptors = {name: max(one.num_fds() for one in found) for name, found in processes.items()}
        for name in processes:
            report.memory_mib.setdefault(name, []).append(round(sizes[name] / 2**20, 1))
            report.descriptors.setdefault(name, []).append(descriptors[name])
    report.failed_packets = max(report.failed_packets, world.metric("netpolq_failed_packets_total"))


def _compare(report: Report) -> None:
    """Compare the last third with the first: a leak makes it larger. A few figures alone have no meaning."""
    lost, sent = report.connections["lost datagrams"], report.connections["admitted"]
    if lost > max(5, sent // 100):
        report.broken.append(f"{lost} allowed datagrams lost, {sent} connections admitted")
    if len(report.memory_mib.get("pool", [])) < _MIN_FIGURES:
        return
    for name, series in report.memory_mib.items():
        first, last = _thirds(series)
        if last > first * _GROWTH + _GROWTH_BYTES / 2**20:
            report.broken.append(f"memory of {name} grew from {first} to {last} MiB")
    for name, series in report.descriptors.items():
        first, last = _thirds(series)
        if last > first + _GROWTH_DESCRIPTORS:
            report.broken.append(f"descriptors of {name} grew from {first:.0f} to {last:.0f}")


def _thirds(series: Sequence[float]) -> tuple[float, float]:
    third = max(1, len(series) // 3)
    return statistics.median(series[:third]), statistics.median(series[-third:])


def _counts(report: Report) -> str:
    parts = [*report.connections.items(), *report.happened.items()]
    return ", ".join(f"{count:,} {name}" for name, count in parts) + (f"; BROKEN: {len(report.broken)}" if report.broken else "")


def _text(report: Report) -> str:
    mode = "open" if report.fail_open else "closed"
    lines = [f"soak of {report.minutes:g} minutes, fail-{mode}, seed {report.seed}: {_counts(report)}"]
    for name, series in report.memory_mib.items():
        first, last = _thirds(series)
        lines.append(f"memory of {name}: {first:.1f} MiB in the first third, {last:.1f} in the last")
    for name, series in report.descriptors.items():
        first, last = _thirds(series)
        lines.append(f"descriptors of {name}: {first:.0f} in the first third, {last:.0f} in the last")
    lines.append(f"packets of dead workers, dropped or let through: {report.failed_packets:.0f} at most at one time")
    lines += [f"BROKEN: {broken}" for broken in report.broken[:20]] or ["every promise was kept"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
