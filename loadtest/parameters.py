"""The parameters of all shapes: size and duration of loads, other agents, and other builds of netpolq."""

import re
import shlex

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """Another agent. `template`: a command line with the fields `{queue}` and `{policies}`."""

    name: str
    template: str

    def argv(self, queue: int, policies: Path) -> list[str]:
        """The command for one queue. Raises `ValueError` if the template has an unknown field or is no command line."""
        try:
            return [word.format(queue=queue, policies=policies) for word in shlex.split(self.template)]
        except (KeyError, IndexError) as error:
            raise ValueError(f"only {{queue}} and {{policies}} are known, not {{{error.args[0]}}}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Netpolq once more. `checkout`: with the code of this folder; None: of this checkout. `flags`: of `netpolq run`, added to its own."""

    checkout: Path | None = None
    flags: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What is different about it."""
        return f"of {self.checkout}" if self.checkout is not None else f"with {shlex.join(self.flags)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """`packets`: of one load of packets; `duration_s`: of one load with a duration.

    `compared`, `only`: see `loadtest.comparison`. `quick`: a test run with small clusters and counts, whose figures have no meaning.
    """

    packets: int = 300_000
    duration_s: float = 5.0
    quick: bool = False
    externals: tuple[External, ...] = ()
    compared: tuple[Compared, ...] = ()
    only: re.Pattern[str] | None = None
