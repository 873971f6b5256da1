"""Where addresses of this node's pods lie: from the settings, or from the Node, as soon as it has ranges."""

import asyncio

from dataclasses import dataclass
from typing import cast

import pytest

from netpolq.dataplane.install import Ruleset
from netpolq.enums import Dataplane
from netpolq.hold.ranges import PodRange, parse_ranges
from netpolq.settings import resolve
from netpolq.sources.source import Source
from netpolq.supervisor.from_settings import ruleset_config
from netpolq.supervisor.unknown_addresses import UnknownAddresses

RANGES = parse_ranges("10.1.0.0/24,fd00:1::/64")
ON = "--hold-unknown=on"


@dataclass
class Node:
    """A source, of which only the ranges of the Node are read."""

    pod_ranges: tuple[PodRange, ...] = ()


async def follow(flags: list[str], node: Node) -> tuple[UnknownAddresses, Ruleset, int]:
    """The part after its first look at the Node, the ruleset, and the number of installations that it has asked for."""
    settings = resolve(flags, {})
    ruleset = Ruleset(ruleset_config(settings, Dataplane.NATIVE))
    changes: list[None] = []
    unknown = UnknownAddresses(settings, ruleset, lambda: changes.append(None))
    task = asyncio.create_task(unknown.run(cast("Source", node)))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return unknown, ruleset, len(changes)


async def test_the_ranges_of_the_node_are_used() -> None:
    unknown, ruleset, changes = await follow([ON], Node(RANGES))
    assert ruleset.config.pod_ranges == RANGES
    assert changes == 1
    assert unknown.problem is None


async def test_the_ranges_of_the_settings_come_first() -> None:
    unknown, ruleset, changes = await follow([ON, "--pod-cidrs=10.2.0.0/24"], Node(RANGES))
    assert ruleset.config.pod_ranges == parse_ranges("10.2.0.0/24")
    assert changes == 0
    assert unknown.problem is None


async def test_interfaces_are_enough() -> None:
    unknown, ruleset, changes = await follow([ON, "--pod-interfaces=cali*"], Node())
    assert ruleset.config.pod_interfaces == ("cali*",)
    assert changes == 0
    assert unknown.problem is None


@pytest.mark.parametrize("flags", [["--hold-unknown=auto"], ["--hold-unknown=off", "--pod-cidrs=10.2.0.0/24"]])
async def test_without_ranges_or_switched_off_nothing_waits_and_that_is_no_problem(flags: list[str]) -> None:
    unknown, ruleset, changes = await follow(flags, Node() if "auto" in flags[0] else Node(RANGES))
    assert ruleset.config.pod_ranges == ()
    assert changes == 0
    assert unknown.problem is None


async def test_when_packets_must_wait_and_no_range_is_known_the_problem_names_the_flags() -> None:
    unknown, _ruleset, _changes = await follow([ON, "--hostname-override=node-1"], Node())
    assert unknown.problem == (
        '--hold-unknown is on, and no pod range is known: the Node "node-1" names no podCIDRs; set --pod-cidrs or --pod-interfaces'
    )
