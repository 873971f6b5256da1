"""Checks of kubeconfig files before the kubernetes package reads them, because its errors do not name the file."""

import ssl

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_SECTIONS = ("clusters", "contexts", "users")


class KubeconfigError(Exception):
    """A file that cannot be used; the text is one line that names it."""


def check(paths: str, context: str = "") -> None:
    """Read the files of a colon-separated list, as in KUBECONFIG. `context`: one that must exist; empty: the current one.

    Raises `KubeconfigError`.

    As in kubectl, a missing file is ignored if another one exists.
    """
    found = [path for path in map(_expanded, filter(None, paths.split(":"))) if not _is_missing(path)]
    if not found:
        raise KubeconfigError(f"{paths}: No such file or directory")
    documents = {path: _read(path) for path in found}
    if context:
        known = _contexts(documents.values())
        if context not in known:
            raise KubeconfigError(f"{paths}: there is no context {context!r}; allowed: {', '.join(sorted(known)) or 'none'}")
    elif not any(document.get("current-context") for document in documents.values()):
        raise KubeconfigError(f"{', '.join(map(str, found))}: current-context is missing or empty")


def _contexts(documents: Iterable[dict[str, object]]) -> set[str]:
    found: set[str] = set()
    for document in documents:
        entries = document.get("contexts")
        if isinstance(entries, list):
            found.update(str(entry["name"]) for entry in entries if isinstance(entry, dict))
    return found


def check_certificates(files: Iterable[str | None]) -> None:
    """Open each file that is given. Raises `KubeconfigError`."""
    for name in filter(None, files):
        try:
            Path(name).open("rb").close()
        except OSError as error:
            raise KubeconfigError(f"{name}: {error.strerror}") from error


def described(error: Exception, files: Iterable[str | None]) -> str:
    """An error of the kubernetes package or of TLS as one line. `files`: certificates and keys that it may be about."""
    text = " ".join(str(error).split()) or type(error).__name__
    names = [name for name in files if name]
    return f"{', '.join(names)}: {text}" if isinstance(error, ssl.SSLError) and names else text


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # unknown user, or no home directory: an ordinary name
        return Path(name)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}") from error
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KubeconfigError(f"{path}: not text in UTF-8") from error
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        raise KubeconfigError(f"{path}: the file is empty")
    if not isinstance(document, dict):
        raise KubeconfigError(f"{path}: not a kubeconfig, which is a mapping with {', '.join(_SECTIONS)}")
    for section in _SECTIONS:
        entries = document.get(section) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
            raise KubeconfigError(f"{path}: {section} must be a list of entries with a name")
    return document
