"""The objects of a folder or file of manifests, and the report of what cannot be used in it."""

import sys
import tempfile

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from netpolq.explain.known import Known, Others, Read
from netpolq.logs import one_line
from netpolq.model import Rejection, Update
from netpolq.sources.decode.error import DecodeError
from netpolq.sources.decode.others import decode_others
from netpolq.sources.folder import source
from netpolq.sources.folder.manifest_file import OnIgnored
from netpolq.sources.folder.scan import SUFFIXES
from netpolq.store import Store


def reader(manifests: Path) -> Read:
    """Return the reader of a folder or file. It reads all objects, whatever is asked for."""
    return lambda _ends: load(manifests)


def load(manifests: Path) -> Known:
    """Return the objects of a folder, or of a file of any name. Raises `NetpolqError` if it cannot be read."""
    others = Others()
    store = Store()
    store.apply(_update(manifests, partial(_take, others)))
    return Known(store=store, others=others)


def _take(others: Others, origin: str, document: int, body: object, problem: str) -> None:
    """Take an object of a kind that the agent does not use. `problem`: of its document."""
    for item in decode_others(body):
        if isinstance(item, DecodeError):
            others.rejections.append(item.rejection(origin=origin, document=document))
        elif problem:
            rejection = Rejection(origin=origin, document=document, key=str(item), message=problem, consequence="it is not used")
            others.rejections.append(rejection)
        else:
            others.add(item)


def _update(manifests: Path, on_ignored: OnIgnored) -> Update:
    if not manifests.is_file():
        return source.load(manifests, on_ignored)
    # The folder source selects files by suffix. A temporary folder with a link to this file allows any file name.
    with tempfile.TemporaryDirectory(prefix="netpolq-explain-") as folder:
        name = manifests.name.lstrip(".")
        link = Path(folder, name if name.endswith(SUFFIXES) else f"{name}{SUFFIXES[0]}")
        link.symlink_to(manifests.resolve())
        return source.load(Path(folder), on_ignored)


def report(rejections: Iterable[Rejection], origin: str = "") -> None:
    """Write rejections to standard error. `origin`: in front of each line, where manifests of several places are read."""
    where = f"{origin}: " if origin else ""
    for rejection in rejections:
        for line in rejection.lines():
            sys.stderr.write(f"{one_line(where + line)}\n")
