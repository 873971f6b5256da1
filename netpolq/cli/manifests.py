"""Checks of the path that `--manifests` names."""

import os

from pathlib import Path

from netpolq.errors import SettingsError


def require_folder(folder: Path | None) -> Path:
    """Return the folder. Raises `SettingsError` if none is given or if it cannot be listed."""
    if folder is None:
        raise SettingsError("--manifests DIR is required")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise SettingsError(f"--manifests {str(folder)!r}: {error.strerror}; allowed: a readable folder") from error
    return folder


def require_folder_or_file(path: Path | None) -> Path:
    """Return the path of a folder or file. Raises `SettingsError` if none is given or if it cannot be read."""
    if path is None or not path.is_file():
        return require_folder(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"--manifests {str(path)!r}: {error.strerror}; allowed: a readable folder or file") from error
    return path
