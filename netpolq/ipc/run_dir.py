"""File names in the run directory, and the checks of the directory at the start.

Used by the pool, the supervisor, and the commands `status` and `cleanup`.
"""

import errno
import os
import stat

from pathlib import Path

SNAPSHOT_FILE = "snapshot.bin"
UNFINISHED_SNAPSHOT_FILE = "snapshot.new"
NAMES_FILE = "names.json"
UNFINISHED_NAMES_FILE = "names.new"
STATUS_SOCKET = "status.sock"
TAKEOVER_KEY = "takeover.key"
FILES = (SNAPSHOT_FILE, UNFINISHED_SNAPSHOT_FILE, NAMES_FILE, UNFINISHED_NAMES_FILE, STATUS_SOCKET, TAKEOVER_KEY)
"""All files that an agent leaves in the directory."""

_METRICS = "metrics-"


def metrics_dirs(run_dir: Path) -> list[Path]:
    """Directories with counters of builds before 0.1.0."""
    return sorted(path for path in run_dir.glob(f"{_METRICS}*") if path.is_dir() and not path.is_symlink())


def prepare(run_dir: Path) -> None:
    """Create the directory if it is missing, and give only this user access. Raises `OSError` with the path at fault.

    Rejects a directory of another user, and one in which a file of the agent is a symbolic link or belongs to another user: a program of
    that user could make the agent read or write elsewhere, or load a forged snapshot.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        if run_dir.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link", str(run_dir)) from None
        raise
    try:
        _check_owner(str(run_dir), os.fstat(folder))
        os.fchmod(folder, 0o700)
        for name in FILES:
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(found.st_mode):
                raise OSError(errno.ELOOP, "it is a symbolic link", str(run_dir / name))
            _check_owner(str(run_dir / name), found)
    finally:
        os.close(folder)


def _check_owner(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to user {found.st_uid}, not to user {os.geteuid()}", path)
