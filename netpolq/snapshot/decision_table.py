"""The decision table of a snapshot builder: reference-counted decisions, each with a number that stays while the decision is in use.

Numbers are stable because flow caches keep them: an answer for addresses that a change does not concern stays valid with the next
snapshot. Released numbers are reused only after `collect_garbage`.
"""

from array import array
from collections.abc import Mapping

from netpolq.decision import Isolation
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Rule
from netpolq.snapshot.layout import ISOLATION, REJECTED, DecisionWord
from netpolq.snapshot.string_table import StringTable

_WORDS = len(DecisionWord)


class DecisionTable:
    """The DECISIONS section. Names of policies and rules are strings of `strings`."""

    def __init__(self, strings: StringTable) -> None:
        self.is_touched = True
        self.words = array("I", bytes(4 * _WORDS))
        self._strings = strings
        self._numbers: dict[Rule | Isolation, int] = {}
        self._uses: dict[Rule | Isolation, int] = {}
        self._ids = IdAllocator(first=1)
        self._released: set[Rule | Isolation] = set()
        self._rejected = 0

    @property
    def has_rejections(self) -> bool:
        """Whether a decision is there of which denied packets are answered."""
        return self._rejected > 0

    def __len__(self) -> int:
        return len(self.words) // _WORDS

    def number(self, decision: Rule | Isolation) -> int:
        """Return the number of a decision in use."""
        return self._numbers[decision]

    def acquire(self, decision: Rule | Isolation) -> int:
        """Add a reference to a decision. Returns its number."""
        self._uses[decision] = self._uses.get(decision, 0) + 1
        number = self._numbers.get(decision)
        if number is None:
            number = self._numbers[decision] = self._ids.allocate()
            if number == len(self):
                self.words.extend([0] * _WORDS)
            rejected = REJECTED if decision.is_rejected else 0
            self._count_rejected(+decision.is_rejected)
            if isinstance(decision, Rule):
                flags = decision.tier << 16 | decision.direction << 8 | decision.action | rejected
                policy, name = self._strings.acquire(decision.policy), self._strings.acquire(decision.name)
                record = flags, policy, decision.position, decision.priority, name
            else:
                record = ISOLATION << 16 | decision.direction << 8 | rejected, 0, 0, 0, 0
            self.words[number * _WORDS : (number + 1) * _WORDS] = array("I", record)
            self.is_touched = True
        return number

    def release(self, decision: Rule | Isolation) -> None:
        """Remove a reference to a decision."""
        self._uses[decision] -= 1
        if not self._uses[decision]:
            self._released.add(decision)

    def set_programs(self, programs: Mapping[Isolation, int]) -> None:
        """Set the offset of a program with each isolation, from which a reader takes the names of the policies."""
        for isolation, offset in programs.items():
            index = self._numbers[isolation] * _WORDS + DecisionWord.POLICY
            if self.words[index] != offset:
                self.words[index] = offset
                self.is_touched = True

    def collect_garbage(self) -> None:
        """Free the numbers of decisions without references."""
        for decision in self._released:
            if not self._uses[decision]:
                del self._uses[decision]
                number = self._numbers.pop(decision)
                if isinstance(decision, Rule):
                    self._strings.release(decision.policy)
                    self._strings.release(decision.name)
                self._ids.free(number)
                self._count_rejected(-decision.is_rejected)
        self._released.clear()

    def _count_rejected(self, change: int) -> None:
        self._rejected += change
        flags = REJECTED if self._rejected else 0
        if self.words[DecisionWord.FLAGS] != flags:
            self.words[DecisionWord.FLAGS] = flags
            self.is_touched = True
