"""Errors that end the program, and their exit codes."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `netpolq`. They are documented in the README: never renumber them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PRIVILEGES = 3
    QUEUE_TAKEN = 4
    KERNEL = 5
    ALREADY_RUNNING = 6
    BOOT = 7
    UNEXPECTED = 8
    INCOMPLETE = 9


class NetpolqError(Exception):
    """An expected failure. Its text is one line for the operator: what is wrong and what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, exit_code: ExitCode | None = None) -> None:
        """`exit_code`: replaces that of the class."""
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class SettingsError(NetpolqError):
    """A flag, environment variable or file entry has an invalid value."""

    exit_code = ExitCode.USAGE


class PrivilegeError(NetpolqError):
    """A capability that the agent needs is missing."""

    exit_code = ExitCode.PRIVILEGES


class QueueTakenError(NetpolqError):
    """Another program is bound to a requested queue number."""

    exit_code = ExitCode.QUEUE_TAKEN


class KernelError(NetpolqError):
    """The kernel lacks a feature that enforcement needs."""

    exit_code = ExitCode.KERNEL


class AlreadyRunningError(NetpolqError):
    """Another agent serves this network namespace."""

    exit_code = ExitCode.ALREADY_RUNNING


class BootError(NetpolqError):
    """The agent cannot start, and a retry would fail as well (a port in use, a missing directory)."""

    exit_code = ExitCode.BOOT


class SnapshotError(Exception):
    """The bytes are not a snapshot that this version can read. The snapshot in force stays in force."""
