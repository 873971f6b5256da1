"""Which object stands for each name, when several files may hold one of the same name. What did not change costs nothing."""

from collections.abc import Mapping
from operator import itemgetter
from typing import NamedTuple

from netpolq.model import Object, ObjectKey
from netpolq.sources.folder.manifest_file import Content, Located


class RetainedFile(NamedTuple):
    """What a file contributes. `is_missing`: it is not there at the moment, and yields to one that its objects may have moved to."""

    content: Content
    is_missing: bool


class Duplicate(NamedTuple):
    """An object that is not used, because another of its name comes first: in `first_path`, as document `first_document`."""

    path: str
    document: int
    key: ObjectKey
    first_path: str
    first_document: int


class _Copy(NamedTuple):
    """Where an object stands; the least of those with one name is used. `position`: within the file."""

    is_missing: bool
    path: str
    position: int
    document: int


class _Index:
    """The objects of files by name, for as long as one change takes: kept for good it would double what they cost."""

    def __init__(self, files: Mapping[str, RetainedFile]) -> None:
        self._files = files
        self._known: dict[str, dict[ObjectKey, list[tuple[int, Located]]]] = {}

    def of(self, path: str) -> dict[ObjectKey, list[tuple[int, Located]]]:
        """Places and objects of a file."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = {}
            for position, located in enumerate(self._files[path].content.objects):
                found.setdefault(located.item.key, []).append((position, located))
        return found


class FolderObjects:
    """The objects of a set of files. Of those of one name the first counts: files that are there before missing ones, then by path and
    position in the file.
    """

    def __init__(self) -> None:
        self._files: dict[str, RetainedFile] = {}
        self._holders: dict[ObjectKey, tuple[str, ...]] = {}
        self._duplicates: dict[ObjectKey, tuple[Duplicate, ...]] = {}
        self._objects: dict[ObjectKey, Object] = {}

    def change(self, files: Mapping[str, RetainedFile]) -> tuple[tuple[Object, ...], tuple[ObjectKey, ...]]:
        """Take over the present files. Returns the objects that are new or different, and the names that are gone."""
        touched: dict[ObjectKey, None] = {}
        for path in [path for path in self._files if path not in files]:
            touched.update(self._put(path, None))
        for path in sorted(files):
            before, after = self._files.get(path), files[path]
            # By identity: a content is made anew whenever a file is read, and to compare two large ones would cost what it saves.
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
        """Objects that are not used, by path and document."""
        return sorted(one for several in self._duplicates.values() for one in several)

    def _put(self, path: str, file: RetainedFile | None) -> dict[ObjectKey, None]:
        """Replace a file; returns the names that it held or holds."""
        before = self._files.pop(path, None)
        old = {item.key: None for _document, item in before.content.objects} if before is not None else {}
        new = {item.key: None for _document, item in file.content.objects} if file is not None else {}
        alone = (path,)  # one tuple for all that this file alone holds
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
