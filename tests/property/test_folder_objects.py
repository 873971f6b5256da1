"""The object used for each name depends only on the present files, and the reported changes lead to it."""

from hypothesis import given
from hypothesis import strategies as st

from netpolq.model import Namespace, Object, ObjectKey
from netpolq.sources.folder.manifest_file import Content, Located
from netpolq.sources.folder.objects import FolderObjects, RetainedFile

NAMES = st.sampled_from("abcde")
OBJECTS = st.builds(lambda name, stage: Namespace(name=name, labels={"stage": stage}), NAMES, st.sampled_from("xy"))
CONTENTS = st.lists(OBJECTS, max_size=4).map(
    lambda objects: Content(objects=tuple(Located(number, item) for number, item in enumerate(objects, 1)))
)
FOLDERS = st.dictionaries(st.sampled_from(["1.yaml", "2.yaml", "3.yaml"]), st.builds(RetainedFile, CONTENTS, st.booleans()))


def expected(files: dict[str, RetainedFile]) -> dict[ObjectKey, Object]:
    chosen: dict[ObjectKey, Object] = {}
    for path in sorted(files, key=lambda path: (files[path].is_missing, path)):
        for _document, item in files[path].content.objects:
            chosen.setdefault(item.key, item)
    return chosen


@given(st.lists(FOLDERS, max_size=6))
def test_changes_lead_to_what_the_present_files_say(folders: list[dict[str, RetainedFile]]) -> None:
    objects = FolderObjects()
    known: dict[ObjectKey, Object] = {}
    for files in folders:
        upserted, deleted = objects.change(files)
        for key in deleted:
            del known[key]
        assert all(known.get(item.key) != item for item in upserted)
        known.update((item.key, item) for item in upserted)
        assert known == expected(files)
        fresh = FolderObjects()
        fresh.change(files)
        assert objects.duplicates() == fresh.duplicates()
        present = [located for file in files.values() if not file.is_missing for located in file.content.objects]
        there = {located.item.key for located in present}
        # Of each name that is there, one is used, and all others are named.
        assert len(objects.duplicates()) == len(present) - len(there)
    assert objects.change(folders[-1] if folders else {}) == ((), ())
