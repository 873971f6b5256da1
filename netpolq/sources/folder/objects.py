"""Objects of a set of files, with the choice between files that have an object of the same name. Unchanged files cost nothing."""

from collections.abc import Mapping
from operator import itemgetter
from typing import NamedTuple

from netpolq.model import Object, ObjectKey
from netpolq.sources.folder.manifest_file import Content, Located


class RetainedFile(NamedTuple):
    """The content of a file. `is_missing`: the file does not exist now, so any other file with the same object takes precedence."""

    content: Content
    is_missing: bool


class Duplicate(NamedTuple):
    """An unused object: the object of this name in document `first_document` of `first_path` comes first."""

    path: str
    document: int
    key: ObjectKey
    first_path: str
    first_document: int


class _Copy(NamedTuple):
    """Location of an object, in order of precedence: the smallest one of a name is used. `position`: within the file."""

    is_missing: bool
    path: str
    position: int
    document: int


class _Index:
    """The objects of files by name, during one change only: a permanent index would double the memory of the objects."""

    def __init__(self, files: Mapping[str, RetainedFile]) -> None:
        self._files = files
        self._known: dict[str, dict[ObjectKey, list[tuple[int, Located]]]] = {}

    def of(self, path: str) -> dict[ObjectKey, list[tuple[int, Located]]]:
        """Positions and objects of a file, by name."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = {}
            for position, located in enumerate(self._files[path].content.objects):
                found.setdefault(located.item.key, []).append((position, located))
        return found


class FolderObjects:
    """The objects of a set of files. The first object of a name is used: existing files before missing ones, then by path and
    position in the file.
    """

    def __init__(self) -> None:
        self._files: dict[str, RetainedFile] = {}
        self._holders: dict[ObjectKey, tuple[str, ...]] = {}
        self._duplicates: dict[ObjectKey, tuple[Duplicate, ...]] = {}
        self._objects: dict[ObjectKey, Object] = {}

    def change(self, files: Mapping[str, RetainedFile]) -> tuple[tuple[Object, ...], tuple[ObjectKey, ...]]:
        """Replace the set of files. Returns the new or changed objects, and the names of deleted ones."""
        touched: dict[ObjectKey, None] = {}
        for path in [path for path in self._files if path not in files]:
            touched.update(self._put(path, None))
        for path in sorted(files):
            before, after = self._files.get(path), files[path]
            # By identity: each read of a file creates a new content, and comparing two large ones would cost as much as it saves.
            if before is None or before.content is not after.content or before.is_missing is not after.is_missing:
                touched.update(self._put(path, after))
        upserted: list[Object] = []
        deleted: list[ObjectKey] = []
        index = _Index(self._files)
        for key in touched:
            found = self._choose(key, index)
            if found is None:
                if self._objects.pop(key, None) is not None:
                    deleted.append(key)
            elif self._objects.get(key) != found:
                self._objects[key] = found
                upserted.append(found)
        return tuple(upserted), tuple(deleted)

    def duplicates(self) -> list[Duplicate]:
        """The unused objects, by path and document."""
        return sorted(one for several in self._duplicates.values() for one in several)

    def _put(self, path: str, file: RetainedFile | None) -> dict[ObjectKey, None]:
        """Replace a file. Returns the names in its old and new content."""
        before = self._files.pop(path, None)
        old = {item.key: None for _document, item in before.content.objects} if before is not None else {}
        new = {item.key: None for _document, item in file.content.objects} if file is not None else {}
        alone = (path,)  # one tuple shared by all objects of this file alone
        for key in old.keys() - new.keys():
            others = tuple(one for one in self._holders[key] if one != path)
            if others:
                self._holders[key] = others
            else:
                del self._holders[key]
        for key in new.keys() - old.keys():
            others = self._holders.get(key, ())
            self._holders[key] = (*others, path) if others else alone
        if file is not None:
            self._files[path] = file
        return {**old, **new}

    def _choose(self, key: ObjectKey, index: "_Index") -> Object | None:
        copies = sorted(
            (
                (_Copy(self._files[path].is_missing, path, position, located.document), located.item)
                for path in self._holders.get(key, ())
                for position, located in index.of(path)[key]
            ),
            key=itemgetter(0),
        )
        self._duplicates.pop(key, None)
        if not copies:
            return None
        (first, chosen), *others = copies
        unused = tuple(
            Duplicate(copy.path, copy.document, key, first.path, first.document) for copy, _item in others if not copy.is_missing
        )
        if unused:
            self._duplicates[key] = unused
        return chosen
