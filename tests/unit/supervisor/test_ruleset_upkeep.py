"""How often the ruleset is repaired, by a clock of the test's own."""

from collections.abc import Iterator

import pytest

from netpolq.dataplane.kernel_errors import RulesetError
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.ipc.channel import Channel, RulesetInstalled
from netpolq.supervisor.ruleset_upkeep import CALM_S, CHECK_INTERVAL_S, REPAIR_BURST, RulesetUpkeep
from tests.support.progress import progress_of

SETS = IsolatedSets(ingress=frozenset(), egress=frozenset())


class Table:
    """A ruleset whose table others change as the test says. `calls`: what was done to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.may_have_changed = False
        self.damage: str | None = None
        self.refusal: RulesetError | None = None

    async def install(self, _sets: IsolatedSets) -> None:
        self._do("install")

    async def update(self, _sets: IsolatedSets) -> None:
        self._do("update")

    async def restore(self, _sets: IsolatedSets) -> None:
        self._do("restore")

    async def difference(self) -> str | None:
        self.calls.append("look")
        return self.damage

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if self.refusal is not None:
            raise self.refusal


class Upkeep(RulesetUpkeep):
    """With a table and a clock of the test's own."""

    def __init__(self) -> None:
        self.table = Table()
        self.now_s = 100.0
        self.progress = progress_of()
        self.channel, pool_end = Channel.pair()
        self.pool = Channel(pool_end)
        super().__init__(self.table, self.progress, self.channel, clock=lambda: self.now_s)  # type: ignore[arg-type]

    @property
    def installations(self) -> int:
        """Those that the rollout knows of."""
        return self.progress.rollout.connection_doubts


@pytest.fixture
def upkeep() -> Iterator[Upkeep]:
    upkeep = Upkeep()
    yield upkeep
    upkeep.channel.close()
    upkeep.pool.close()


async def test_the_table_is_looked_at_once_a_second_and_when_the_kernel_tells_of_a_change(upkeep: Upkeep) -> None:
    await upkeep.bring_about(SETS)
    await upkeep.bring_about(SETS)
    assert upkeep.table.calls == ["install", "update"]
    upkeep.table.may_have_changed = True
    await upkeep.bring_about(SETS)
    assert upkeep.table.calls[2:] == ["look", "update"]
    upkeep.table.may_have_changed = False
    upkeep.now_s += CHECK_INTERVAL_S
    await upkeep.bring_about(SETS)
    assert upkeep.table.calls[4:] == ["look", "update"]
    assert upkeep.due_in_s == CHECK_INTERVAL_S
    assert (upkeep.repairs, upkeep.installations) == (0, 1)


async def test_the_pool_is_told_of_an_installation(upkeep: Upkeep) -> None:
    """In a takeover, the other agent may leave then."""
    await upkeep.bring_about(SETS)
    assert upkeep.pool.receive() == (RulesetInstalled(), None)


async def test_a_refused_update_is_repaired_at_once_if_the_table_differs(upkeep: Upkeep) -> None:
    """Another process has removed an element that the update was to remove, and the kernel's notification has not been read yet."""
    await upkeep.bring_about(SETS)
    upkeep.table.refusal, upkeep.table.damage = RulesetError("ENOENT"), "a set differs"
    with pytest.raises(RulesetError):
        await upkeep.bring_about(SETS)
    assert upkeep.table.calls == ["install", "update", "look", "restore"]
    assert upkeep.repairs == 0, "the kernel has refused the repair, too"


async def test_after_a_refusal_everything_is_installed(upkeep: Upkeep) -> None:
    """If the table is as it was left, the refusal has another cause."""
    await upkeep.bring_about(SETS)
    upkeep.table.refusal = RulesetError("refused")
    with pytest.raises(RulesetError):
        await upkeep.bring_about(SETS)
    upkeep.table.refusal = None
    await upkeep.bring_about(SETS)
    assert upkeep.table.calls == ["install", "update", "look", "install"]
    assert upkeep.installations == 2


async def test_repairs_are_limited_and_contention_ends_with_quiet(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    await upkeep.bring_about(SETS)

    async def sleep(delay_s: float) -> None:
        upkeep.now_s += delay_s

    monkeypatch.setattr("asyncio.sleep", sleep)
    upkeep.table.damage, upkeep.table.may_have_changed = "a set differs", True
    started_s = upkeep.now_s
    while upkeep.contention is None:
        await upkeep.bring_about(SETS)
    assert REPAIR_BURST < upkeep.repairs <= REPAIR_BURST + 2
    assert upkeep.installations == upkeep.repairs + 1
    repaired, since_s = upkeep.repairs, upkeep.now_s
    assert since_s - started_s < 2
    while upkeep.now_s < since_s + 10:
        await upkeep.bring_about(SETS)
    assert upkeep.repairs - repaired <= 11
    upkeep.table.damage = None
    upkeep.now_s += 1
    await upkeep.bring_about(SETS)
    assert upkeep.contention is not None
    upkeep.now_s += CALM_S
    await upkeep.bring_about(SETS)
    assert upkeep.contention is None
