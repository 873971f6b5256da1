"""What the CPUs did is told apart: the load's own programs from others."""

import subprocess
import sys

from collections.abc import Callable

import pytest

from loadtest import processes
from loadtest.processes import FamilyWatch

USED_S = 0.3
USE = f"import time\nwhile time.process_time() < {USED_S}: pass\n"
"""Uses so much of a CPU, however busy the machine is."""


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets for how long the machine has been busy, by its own count."""
    seconds = [100.0]
    monkeypatch.setattr(processes, "_busy_s", lambda: seconds[0])

    def add(more: float) -> None:
        seconds[0] += more

    return add


def test_what_a_program_used_that_has_ended_was_ours(busy: Callable[[float], None]) -> None:
    watch = FamilyWatch(())
    subprocess.run(["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", USE], check=True)
    busy(USED_S)
    assert watch.others_share() == 0.0


def test_what_a_program_used_that_goes_on_was_ours(busy: Callable[[float], None]) -> None:
    script = f"print(flush=True)\ninput()\n{USE}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdout.readline()
        watch = FamilyWatch(())
        program.stdin.write("\n")
        program.stdin.flush()
        program.stdout.readline()
        busy(0.5 * USED_S)  # it had used a little before
        assert watch.others_share() == 0.0
        program.stdin.write("\n")


def test_the_rest_was_others(busy: Callable[[float], None]) -> None:
    watch = FamilyWatch(())
    busy(1000.0)
    assert watch.others_share() > 0.0
