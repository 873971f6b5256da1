"""The takeover key: a file in the run directory, which a replacement must be able to read."""

import os
import secrets

from pathlib import Path

_MAX_KEY_BYTES = 64


def make_key() -> str:
    """A new key."""
    return secrets.token_hex(16)


def write_key(path: Path, key: str) -> None:
    """Write a key to a file that only its owner may read. Raises `OSError` and removes a partial file."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        try:
            file.write(key)
            file.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def read_key(path: Path) -> str:
    """The key of the agent that uses this run directory; empty if there is none."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            return file.read(_MAX_KEY_BYTES)
    except (OSError, UnicodeDecodeError):
        return ""
