"""Errors that end the program, each with the exit code it ends with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `netpolq`; documented in the README, so never renumber."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PRIVILEGES = 3
    QUEUE_TAKEN = 4
    KERNEL = 5
    ALREADY_RUNNING = 6
    BOOT = 7
    UNEXPECTED = 8


class NetpolqError(Exception):
    """An expected failure: its text is one line for the operator, saying what is wrong and what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, exit_code: ExitCode | None = None) -> None:
        """`exit_code`: another than that of the class."""
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class SettingsError(NetpolqError):
    """A flag, environment variable or file entry has a value it must not have."""

    exit_code = ExitCode.USAGE


class PrivilegeError(NetpolqError):
    """A capability that the agent needs is missing."""

    exit_code = ExitCode.PRIVILEGES


class QueueTakenError(NetpolqError):
    """Another program is bound to a queue number that was asked for."""

    exit_code = ExitCode.QUEUE_TAKEN


class KernelError(NetpolqError):
    """The kernel lacks something without which nothing can be enforced."""

    exit_code = ExitCode.KERNEL


class AlreadyRunningError(NetpolqError):
    """Another agent serves this network namespace."""

    exit_code = ExitCode.ALREADY_RUNNING


class BootError(NetpolqError):
    """The agent cannot start and trying again would not help (a port that is taken, a folder that is not there)."""

    exit_code = ExitCode.BOOT


class SnapshotError(Exception):
    """Bytes that are not a snapshot this version can read; the one in force stays in force."""
