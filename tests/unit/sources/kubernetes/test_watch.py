"""The watch protocol without I/O."""

import json

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.model import Namespace, ObjectKey
from netpolq.sources.kubernetes.replica import Replica
from netpolq.sources.kubernetes.resources import RESOURCES
from netpolq.sources.kubernetes.watch import (
    INITIAL_EVENTS_END,
    MAX_LINE_BYTES,
    Changes,
    LineDecoder,
    NoStreamedListsError,
    NotResumableError,
    RestoredError,
    StatusError,
    StreamError,
)

NAMESPACES, PODS, POLICIES = RESOURCES


def body(name: str, version: int, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": labels}}


def line(kind: str, item: object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()


def bookmark(version: str, *, end: bool = False) -> bytes:
    annotations = {INITIAL_EVENTS_END: "true"} if end else {}
    return line("BOOKMARK", {"kind": "Namespace", "metadata": {"resourceVersion": version, "annotations": annotations}})


def key(name: str) -> ObjectKey:
    return ObjectKey("Namespace", "", name)


def known(version: str = "10", *names: str) -> Replica:
    """A replica with a complete state."""
    replica = Replica(NAMESPACES)
    replica.begin()
    replica.add_page([body(name, 5) for name in names])
    replica.complete(version)
    return replica


def take(replica: Replica, *lines: bytes) -> Changes:
    changes = Changes()
    for each in lines:
        replica.on_line(each, changes)
    return changes


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"x") + b"y"), max_size=10), st.data())
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(each + b"\n" for each in lines)
    decoder = LineDecoder()
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == lines


def test_a_truncated_last_line_is_lost_with_its_stream() -> None:
    assert LineDecoder().feed(b'{"a": 1}\n{"type": "DEL') == [b'{"a": 1}']


def test_a_line_that_never_ends_is_refused() -> None:
    decoder = LineDecoder()
    assert decoder.feed(b"x" * MAX_LINE_BYTES) == []
    with pytest.raises(StreamError, match="a line of more than"):
        decoder.feed(b"x")


def test_a_new_complete_state_replaces_what_was_known() -> None:
    replica = known("10", "a", "b")
    replica.begin()
    replica.add_page([body("b", 5)])
    replica.add_page([body("c", 12)])
    changes = replica.complete("12")
    assert changes.deleted == {key("a")}
    assert changes.upserted.keys() == {key("b"), key("c")}
    assert replica.resume_version == "12"


def test_a_state_that_did_not_arrive_whole_changes_nothing() -> None:
    replica = known("10", "a")
    replica.begin()
    replica.add_page([])
    replica.abandon()
    assert take(replica, line("MODIFIED", body("a", 11, x="y"))).upserted.keys() == {key("a")}
    assert replica.resume_version == "11"


def test_streamed_list_is_complete_at_its_bookmark_and_not_before() -> None:
    replica = Replica(NAMESPACES)
    replica.begin()
    changes = Changes()
    assert not replica.on_line(line("ADDED", body("a", 3)), changes)
    assert not replica.on_line(line("ADDED", body("b", 7)), changes)
    assert not changes
    assert replica.on_line(bookmark("9", end=True), changes)
    assert changes.upserted.keys() == {key("a"), key("b")}
    assert replica.resume_version == "9"


def test_a_bookmark_without_the_mark_tells_that_the_server_streams_no_lists() -> None:
    replica = Replica(NAMESPACES)
    replica.begin()
    with pytest.raises(NoStreamedListsError):
        take(replica, line("ADDED", body("a", 3)), bookmark("9"))


def test_events_change_what_is_known_and_bookmarks_only_where_to_go_on() -> None:
    replica = known("10", "a")
    changes = take(
        replica,
        line("ADDED", body("b", 11)),
        line("MODIFIED", body("a", 12, team="x")),
        line("DELETED", body("b", 13)),
        bookmark("20"),
    )
    assert changes.deleted == {key("b")}
    content = changes.upserted[key("a")]
    assert isinstance(content, Namespace)
    assert content.labels["team"] == "x"
    assert replica.resume_version == "20"


def test_replayed_events_do_not_take_anything_back() -> None:
    replica = known("10", "a")
    take(replica, line("ADDED", body("b", 11)), line("MODIFIED", body("a", 12, state="new")), line("DELETED", body("b", 13)))
    changes = take(replica, line("DELETED", body("b", 13)))
    assert not changes
    assert replica.resume_version == "13"


@pytest.mark.parametrize("replayed", [("ADDED", "b", 11), ("MODIFIED", "a", 9), ("BOOKMARK", "", 12)])
def test_an_event_of_an_older_version_means_that_everything_must_be_listed_again(replayed: tuple[str, str, int]) -> None:
    """A watch gives versions in order, so the server has gone back to an older state."""
    replica = known("10", "a")
    take(replica, line("DELETED", body("b", 13)))
    with pytest.raises(NotResumableError):
        take(replica, line(replayed[0], body(*replayed[1:])))


OTHER_UID = {"metadata": {"name": "a", "uid": "other", "resourceVersion": "12"}}
OTHER_TIME = {"metadata": {"name": "a", "resourceVersion": "12", "managedFields": [7, {}, {"time": "2024-05-01T10:00:00Z"}]}}


def resumed() -> Replica:
    """A replica at version 20 whose last event was a change of `a` in version 12; a watch begins."""
    replica = known("10", "a", "b")
    take(replica, line("MODIFIED", body("a", 12)), bookmark("20"))
    assert replica.begin_watch() == "11"
    return replica


def test_a_watch_begins_with_the_last_event_again_and_then_delivers_what_a_bookmark_had_passed() -> None:
    """The event that proves the history is no change. What follows it is one, also if its version is below that of the bookmark."""
    replica = resumed()
    assert not take(replica, bookmark("11"))
    assert replica.resume_version == "20"
    assert not take(replica, line("MODIFIED", body("a", 12)))
    assert not replica.is_awaiting_proof
    assert take(replica, line("DELETED", body("b", 15))).deleted == {key("b")}
    assert replica.resume_version == "15"
    assert replica.begin_watch() == "14"


@pytest.mark.parametrize(
    "sent",
    [
        line("MODIFIED", body("a", 13)),
        line("MODIFIED", body("b", 12)),
        line("DELETED", body("a", 12)),
        line("MODIFIED", OTHER_UID),
        line("MODIFIED", OTHER_TIME),
        line("ADDED", {"metadata": {"name": "a"}}),
        bookmark("10"),
        bookmark("12"),
        bookmark("25"),
        bookmark("x"),
    ],
    ids=["version", "name", "deletion", "uid", "time", "no version", "older", "without the event", "far", "no number"],
)
def test_anything_else_than_the_last_event_means_another_history(sent: bytes) -> None:
    with pytest.raises(RestoredError, match="received before"):
        take(resumed(), sent)


def test_a_watch_that_ends_before_the_proof_needs_it_again() -> None:
    replica = resumed()
    replica.abandon()
    assert replica.resume_version == "20"
    assert replica.begin_watch() == "11"


def test_without_evidence_a_watch_goes_on_from_the_known_version() -> None:
    """A list is none, since it does not show what was deleted before; nor are versions that are no numbers."""
    replica = resumed()
    replica.drop_evidence()
    assert replica.begin_watch() == "20"
    assert known("10", "a").begin_watch() == "10"
    replica = known("abc", "a")
    take(replica, line("MODIFIED", {"metadata": {"name": "a", "resourceVersion": "xyz"}}))
    assert replica.begin_watch() == "abc"
    assert not replica.is_awaiting_proof


def test_versions_that_are_no_numbers_are_taken_as_they_come() -> None:
    replica = known("abc", "a")
    changed = {"metadata": {"name": "a", "resourceVersion": "xyz", "labels": {"k": "v"}}}
    assert take(replica, line("MODIFIED", changed)).upserted.keys() == {key("a")}


def test_an_error_event_is_the_status_it_holds() -> None:
    with pytest.raises(StatusError) as caught:
        take(known(), line("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"}))
    assert caught.value.is_expired
    with pytest.raises(StatusError) as caught:
        take(known(), line("ERROR", ["nonsense"]))
    assert caught.value.code == 500


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", b'{"type": "ADDED"}', b'{"type": "NEW", "object": {}}', b'{"type": "ADDED", "object": 7}',
     b'{"type": "ADDED", "object": {"metadata": []}}', b'{"type": "BOOKMARK", "object": {}}', b"\xff\xfe", b'{"type": "ADDED", "object":'],
)  # fmt: skip
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError):
        take(known(), data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["metadata", "name", "spec", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]), JSON, st.sampled_from(RESOURCES))
def test_no_event_whatever_raises_anything_else(kind: str, item: object, resource: object) -> None:
    replica = Replica(next(each for each in RESOURCES if each is resource))
    replica.begin()
    replica.complete("1")
    try:
        take(replica, line(kind, item))
    except (StreamError, StatusError):
        return


def test_a_policy_that_cannot_be_understood_isolates_and_is_named() -> None:
    replica = Replica(POLICIES)
    replica.begin()
    broken = {
        "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "3"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": "x"}]}]},
    }
    replica.add_page([broken])
    changes = replica.complete("3")
    policy_key = ObjectKey("NetworkPolicy", "shop", "web")
    assert policy_key in changes.upserted
    assert changes.rejections[policy_key].field == "spec.ingress[0].ports[0].endPort"
    mended = {**broken, "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "4"}, "spec": {"podSelector": {}}}
    assert not take(replica, line("MODIFIED", mended)).rejections


def test_changes_that_follow_each_other_come_to_the_same_as_the_last() -> None:
    first, second = Changes(), Changes()
    replica = known("10", "a", "b")
    replica.on_line(line("MODIFIED", body("a", 11, x="1")), first)
    replica.on_line(line("DELETED", body("b", 12)), first)
    replica.on_line(line("ADDED", body("b", 13)), second)
    replica.on_line(line("DELETED", body("a", 14)), second)
    first.merge(second)
    assert first.deleted == {key("a")}
    assert first.upserted.keys() == {key("b")}
