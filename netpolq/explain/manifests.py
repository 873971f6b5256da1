"""The objects of a folder or file of manifests, and the report of what cannot be used in it."""

import sys
import tempfile

from collections.abc import Iterable
from pathlib import Path

from netpolq.explain.known import Known, Read
from netpolq.logs import one_line
from netpolq.model import Rejection, Update
from netpolq.sources.folder import source
from netpolq.sources.folder.scan import SUFFIXES
from netpolq.store import Store


def reader(manifests: Path) -> Read:
    """Return the reader of a folder or file. It reads all objects, whatever is asked for."""
    return lambda _ends: load(manifests)


def load(manifests: Path) -> Known:
    """Return the objects of a folder, or of a file of any name. Raises `NetpolqError` if it cannot be read."""
    store = Store()
    store.apply(_update(manifests))
    return Known(store=store)


def _update(manifests: Path) -> Update:
    if not manifests.is_file():
        return source.load(manifests)
    # The folder source selects files by suffix. A temporary folder with a link to this file allows any file name.
    with tempfile.TemporaryDirectory(prefix="netpolq-explain-") as folder:
        name = manifests.name.lstrip(".")
        link = Path(folder, name if name.endswith(SUFFIXES) else f"{name}{SUFFIXES[0]}")
        link.symlink_to(manifests.resolve())
        return source.load(Path(folder))


def report(rejections: Iterable[Rejection], origin: str = "") -> None:
    """Write rejections to standard error. `origin`: in front of each line, where manifests of several places are read."""
    where = f"{origin}: " if origin else ""
    for rejection in rejections:
        for line in rejection.lines():
            sys.stderr.write(f"{one_line(where + line)}\n")
