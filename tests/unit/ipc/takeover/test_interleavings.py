"""The machines driven against each other, through every order in which messages and events can happen. See `World`."""

import copy

from collections.abc import Iterator

import pytest

from netpolq.ipc.takeover.messages import PeerId
from netpolq.ipc.takeover.protocol import AgentState, ReplacementState
from tests.unit.ipc.takeover.world import AGENT, Supervisor, World

Path = tuple[str, ...]


def worlds(replacements: int, faults: int) -> Iterator[tuple[World, Path, bool]]:
    """Each world that can be reached, the steps that led to it, and whether nothing happens in it any more except faults."""
    start = World(replacements, faults)
    seen = {start.key}
    waiting: list[tuple[World, Path]] = [(start, ())]
    while waiting:
        world, path = waiting.pop()
        steps = list(world.steps())
        yield world, path, not steps
        for is_fault, (name, step) in [*((False, step) for step in steps), *((True, step) for step in world.possible_faults())]:
            after = copy.deepcopy(world)
            after.faults -= is_fault
            try:
                step(after)
            except Exception as error:
                raise AssertionError(" → ".join((*path, name))) from error
            if after.key not in seen:
                seen.add(after.key)
                waiting.append((after, (*path, name)))


def agents_that_may_change_rules(world: World) -> int:
    own = world.is_alive and world.supervisor is not Supervisor.ABSENT
    return own + sum(one.may_change_rules for one in world.candidates.values())


def serving(world: World) -> list[PeerId]:
    """The agents that go on: 0 for the first one, and the replacements that have become the agent."""
    own = [AGENT] if world.is_alive and world.agent.state is AgentState.SERVING else []
    return own + [
        peer for peer, one in world.candidates.items() if one.is_alive and one.machine.state is ReplacementState.SERVING
    ]


def processes(world: World) -> list[PeerId]:
    own = [AGENT] if world.is_alive else []
    return own + [peer for peer, one in world.candidates.items() if one.is_alive]


def assert_queues_are_those_of_a_successor_that_goes_on(world: World, path: Path) -> None:
    """Packets are moved to no queue of a replacement that has not installed its rules, or is known to have ended."""
    agent = world.agent
    has_left_to_it = agent.state in {AgentState.LEAVING, AgentState.ENDED} and agent.successor is not None
    assert agent.successor_queues in ({range(0), range(200, 202)} if has_left_to_it else {range(0)}), path


def assert_the_last_process_is_the_agent(world: World, path: Path) -> None:
    left = processes(world)
    assert serving(world) == left, path
    assert world.holder == (left[0] if left else None), path
    # A replacement that had no fault takes over from an agent that had one. (It gives up if it was too slow to show the key.)
    assert left or any(step == "time passes" or step.startswith(("1 is", "1 gets", "2 is", "2 gets")) for step in path), path


@pytest.mark.parametrize("replacements", [1, 2])
def test_without_faults_one_replacement_becomes_the_agent_in_every_order(replacements: int) -> None:
    ends = 0
    for world, path, is_end in worlds(replacements, faults=0):
        assert agents_that_may_change_rules(world) <= 1, path
        assert len(serving(world)) <= 1, path
        if is_end:
            ends += 1
            (agent,) = serving(world)
            assert agent != AGENT, path
            assert world.agent.successor_queues == range(200, 202), path
            assert world.holder == agent, path
            assert processes(world) == [agent], path
    assert ends >= replacements


@pytest.mark.parametrize("faults", [1, 2])
def test_after_faults_at_any_moment_the_process_that_is_left_is_the_agent(faults: int) -> None:
    """Processes that are killed or stopped, supervisors that restart, limits that pass. The lock is free if no process is left."""
    for world, path, is_end in worlds(1, faults):
        assert_queues_are_those_of_a_successor_that_goes_on(world, path)
        assert agents_that_may_change_rules(world) <= 1, path
        assert len(serving(world)) <= 1, path
        if is_end:
            assert_the_last_process_is_the_agent(world, path)


@pytest.mark.property
def test_of_two_replacements_and_a_fault_at_any_moment_at_most_one_is_left() -> None:
    """At the end. Not in between: if the running agent is killed, a replacement may acquire the lock while the other still installs."""
    for world, path, is_end in worlds(2, faults=1):
        if "agent is killed" not in path:
            assert agents_that_may_change_rules(world) <= 1, path
        assert len(serving(world)) <= 1, path
        if is_end:
            assert_the_last_process_is_the_agent(world, path)
