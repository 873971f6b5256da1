"""The store of a folder or file of manifests, and the report of what cannot be used in it."""

import sys
import tempfile

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from netpolq.addresses import AddressKey
from netpolq.logs import one_line
from netpolq.model import Rejection
from netpolq.sources.folder import source
from netpolq.sources.folder.scan import SUFFIXES
from netpolq.store import Store

_NO_NAMES: Mapping[AddressKey, frozenset[str]] = MappingProxyType({})


def load(manifests: Path, names: Mapping[AddressKey, frozenset[str]] = _NO_NAMES) -> Store:
    """Return a store with the objects of a folder, or of a file of any name, and with learned names.

    Raises `NetpolqError` if it cannot be read.
    """
    store = Store()
    if manifests.is_file():
        # The folder source selects files by suffix. A temporary folder with a link to this file allows any file name.
        with tempfile.TemporaryDirectory(prefix="netpolq-explain-") as folder:
            name = manifests.name.lstrip(".")
            link = Path(folder, name if name.endswith(SUFFIXES) else f"{name}{SUFFIXES[0]}")
            link.symlink_to(manifests.resolve())
            store.apply(source.load(Path(folder)))
    else:
        store.apply(source.load(manifests))
    for address, learned in names.items():
        store.set_names(address, learned)
    return store


def report(rejections: Iterable[Rejection], origin: str = "") -> None:
    """Write rejections to standard error. `origin`: in front of each line, where manifests of several places are read."""
    where = f"{origin}: " if origin else ""
    for rejection in rejections:
        for line in rejection.lines():
            sys.stderr.write(f"{one_line(where + line)}\n")
