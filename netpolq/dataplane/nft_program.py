"""Runner of the program `nft`, for whole rulesets only. After a deadline it kills the program and its child processes."""

import asyncio
import os
import signal

from contextlib import suppress

from netpolq.dataplane.kernel_errors import RulesetError
from netpolq.errors import KernelError

DEADLINE_S = 3.0
"""nft needs some 10 ms for the ruleset, and 5,000 addresses 40 ms more; a machine may be busy."""

MAX_DEADLINE_S = 24.0
_KILL_LIMIT_S = 1.0


class NftTimeoutError(RulesetError):
    """The program did not end in time. Whether the kernel has applied the change is unknown."""


async def run_nft(script: str, deadline_s: float = DEADLINE_S, *, check_only: bool = False) -> None:
    """Apply a script as one transaction; an empty one only shows that nft is installed. `check_only`: only validate the script.

    Raises `KernelError` if it is not installed, `NftTimeoutError` after the deadline, `RulesetError` if it refuses the script.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            *(["--check"] if check_only else []),
            "-f",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise KernelError("the program nft is not installed: install the package nftables") from error
    except OSError as error:
        raise RulesetError(f"the program nft cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline_s):
            _, complaint = await process.communicate(script.encode())
    except TimeoutError as error:
        raise NftTimeoutError(f"nft did not answer within {deadline_s:.0f} s and was killed") from error
    finally:
        if process.returncode is None:
            await _kill(process)
    if process.returncode:
        raise RulesetError(f"nft refused the ruleset: {' '.join(complaint.decode(errors='replace').split())[:500]}")


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill its process group. Does not wait long for a process that hangs in the kernel."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_KILL_LIMIT_S):
            await process.wait()
