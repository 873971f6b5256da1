"""Checks of the paths of manifests that a command line names."""

import os

from pathlib import Path

from netpolq.errors import SettingsError

_FLAG = "--manifests"


def require_folder(folder: Path | None, name: str = _FLAG) -> Path:
    """Return the folder. `name`: of the flag or argument. Raises `SettingsError` if none is given or if it cannot be listed."""
    if folder is None:
        raise SettingsError(f"{name} DIR is required")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise SettingsError(f"{name} {str(folder)!r}: {error.strerror}; allowed: a readable folder") from error
    return folder


def require_folder_or_file(path: Path | None, name: str = _FLAG) -> Path:
    """Return the path of a folder or file. `name`: of the flag or argument.

    Raises `SettingsError` if none is given or if it cannot be read.
    """
    if path is None or not path.is_file():
        return require_folder(path, name)
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"{name} {str(path)!r}: {error.strerror}; allowed: a readable folder or file") from error
    return path
