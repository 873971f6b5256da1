"""Scan of a manifest folder by stat alone: files, unreadable directories, and the directories to watch.

The scan opens no file. It skips hidden entries, and with them the `..data` and timestamped directories of a ConfigMap mount;
it follows the visible links into them. It reads each directory once, however many links lead to it.

Paths are plain strings for speed: every change scans the whole folder, which may have a thousand files.
"""

import os
import stat

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

SUFFIXES = (".yaml", ".yml", ".json")

MISSING_TARGET = "a symbolic link to something that is not there"

_MAX_LINKS = 40
"""Links followed in one path before it counts as a loop. Source: MAXSYMLINKS of linux/namei.h."""


def is_manifest_name(name: str) -> bool:
    """Whether a file of this name is a manifest: *.yaml, *.yml or *.json, in capitals too."""
    return name.endswith(SUFFIXES) or name.casefold().endswith(SUFFIXES)


class Fingerprint(NamedTuple):
    """Equal fingerprints mean that a file was not touched, within the resolution of the file system's clock.

    `changed_ns` (ctime) shows changes of permissions, and of content where the modification time was set back.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(slots=True, kw_only=True)
class Scan:
    """Paths in `files` and `unreadable` are relative to the folder, the others absolute. A relative directory ends in a slash or is
    empty, so that it is a prefix of what it holds.

    `files`: manifests, also those that are no regular files; without a fingerprint if they cannot be reached.
    `unreadable`: existing directories that cannot be read, with the reason; also the folder itself if it does not exist.
    `root`: device and inode of the folder, None if it does not exist. `directories`: those in which every visible name matters.
    `names`: (directory, name) of every path component that links and the folder's own path depend on.
    """

    files: dict[str, Fingerprint | None] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    root: tuple[int, int] | None = None
    directories: set[str] = field(default_factory=set)
    names: set[tuple[str, str]] = field(default_factory=set)

    def size(self, path: str) -> int:
        """The size of a file in bytes, 0 if it cannot be reached."""
        fingerprint = self.files[path]
        return 0 if fingerprint is None else fingerprint.size


def scan(folder: str) -> Scan:
    """Scan everything below a folder. Never raises."""
    found = Scan(names=set(path_names("/", folder)))
    seen: set[tuple[int, int]] = set()
    pending = [("", folder)]
    while pending:
        relative, path = pending.pop()
        try:
            status = os.stat(path)  # noqa: PTH116
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            with os.scandir(path) as listing:
                entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            # A subdirectory that vanished meanwhile is deleted. A missing folder does not delete its objects.
            if not relative or not isinstance(error, FileNotFoundError):
                found.unreadable[relative] = error.strerror or str(error)
            continue
        found.root = found.root or identity
        seen.add(identity)
        found.directories.add(path)
        real_path = ""
        for entry in reversed(entries):
            if entry.is_symlink():
                real_path = real_path or os.path.realpath(path)
                found.names.update(path_names(real_path, entry.name))
            if _is_directory(found, relative + entry.name, entry):
                pending.append((f"{relative}{entry.name}/", entry.path))
    return found


def _is_directory(found: Scan, relative: str, entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a directory. Adds a manifest file to the scan."""
    is_manifest = is_manifest_name(entry.name)
    try:
        status = os.stat(entry.path)  # noqa: PTH116
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        if is_missing and not entry.is_symlink():
            return False
        if is_manifest:
            found.files[relative] = None
        else:
            found.unreadable[f"{relative}/"] = MISSING_TARGET if is_missing else error.strerror or str(error)
        return False
    if stat.S_ISDIR(status.st_mode):
        return True
    if is_manifest:
        found.files[relative] = Fingerprint.of(status)
    return False


def path_names(start: str, path: str) -> Iterator[tuple[str, str]]:
    """The names that a path depends on, each with its directory: each symbolic link, and the last or first missing component."""
    current, links = start, 0
    parts = path.split("/")[::-1]
    while parts and links <= _MAX_LINKS:
        name = parts.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            current = os.path.dirname(current)  # noqa: PTH120
            continue
        candidate = os.path.join(current, name)  # noqa: PTH118
        try:
            target = os.readlink(candidate)  # noqa: PTH115
        except FileNotFoundError:
            yield current, name
            return
        except OSError:  # not a link, or unreadable
            if not parts:
                yield current, name
            current = candidate
        else:
            yield current, name
            links += 1
            current = "/" if target.startswith("/") else current
            parts.extend(target.split("/")[::-1])
