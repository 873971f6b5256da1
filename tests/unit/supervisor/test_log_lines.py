"""Lines of the log about the agent's own state: what has changed, when it is ready, what is rejected and no longer."""

from loadtest.testbed.manifests import policy
from netpolq.enums import LoggingFormat
from netpolq.logs import set_verbosity
from netpolq.model import NetworkPolicy, ObjectKey, Rejection, Update
from netpolq.store import Store
from netpolq.supervisor.change_summary import MAX_NAMED, Changes
from netpolq.supervisor.readiness_log import ReadyLog
from netpolq.supervisor.rejection_log import log, log_rejections
from tests.support.clusters import store_of
from tests.support.logging_output import logging_output


def rejection(key: str = "NetworkPolicy shop/web", field: str = "spec.ingress[0]", document: int = 1) -> Rejection:
    return Rejection(
        origin="a.yaml", document=document, key=key, field=field, message="is wrong", consequence="the policy only isolates"
    )


def policies(*names: str) -> tuple[NetworkPolicy, ...]:
    return tuple(store_of([dict(policy(f"shop/{name}")) for name in names]).policies.values())


def update(upserted: tuple[NetworkPolicy, ...] = (), deleted: tuple[ObjectKey, ...] = ()) -> Update:
    return Update(upserted=upserted, deleted=deleted, ignored={}, observed_ns=0)


def test_few_changes_are_named_and_only_real_ones() -> None:
    """An object that is delivered again as it was, or deleted without having been there, has not changed."""
    changes, store = Changes(), store_of([dict(policy("shop/a", policyTypes=["Egress"])), dict(policy("shop/b"))])
    gone = ObjectKey("NetworkPolicy", "shop", "gone")
    changes.note(update(policies("a", "b", "c"), (gone,)), store)
    store.apply(update(policies("a", "b", "c")))
    changes.note(update(deleted=(ObjectKey("NetworkPolicy", "shop", "b"),)), store)
    assert changes.take() == "NetworkPolicy shop/a changed, NetworkPolicy shop/c added, NetworkPolicy shop/b deleted"
    assert changes.take() == ""


def test_of_many_changes_the_kinds_are_counted() -> None:
    changes = Changes()
    changes.note(update(policies(*(f"p{number}" for number in range(2000)))), Store())
    assert changes.take() == "2,000 NetworkPolicy added"
    changes.note(update(policies(*(f"p{number}" for number in range(MAX_NAMED)))), Store())
    assert changes.take().count("added") == MAX_NAMED


def test_rejections_are_logged_once_and_so_is_their_end() -> None:
    """A rejection of the same object for another reason replaces the first, which has not ended."""
    with logging_output(LoggingFormat.TEXT) as output:
        log_rejections([], [rejection()])
        log_rejections([rejection()], [rejection()])
        log_rejections([rejection()], [rejection(field="spec.egress[0]")])
        log_rejections([rejection(field="spec.egress[0]"), rejection(document=2)], [rejection(document=2)])
    logged = [line.split("]: ", 1)[1].split(" (")[0] for line in output.getvalue().splitlines()]
    assert logged == [
        "rejected: a.yaml document 1: NetworkPolicy shop/web: spec.ingress[0]: is wrong",
        "rejected: a.yaml document 1: NetworkPolicy shop/web: spec.egress[0]: is wrong",
        "no longer rejected: a.yaml document 1: NetworkPolicy shop/web: spec.egress[0]: is wrong",
    ]


def test_being_ready_and_not_is_told_at_each_change_and_not_in_between() -> None:
    now_s = 0.0
    reasons: list[str] = ["no sync yet"]
    with logging_output(LoggingFormat.TEXT) as output:
        lines = ReadyLog(lambda: reasons, clock=lambda: now_s)
        for at_s, found in (
            *((1.0, ["no sync yet"]), (2.5, []), (3.0, [])),
            *((4.0, ["1.0 s behind"]), (5.0, ["2.0 s behind"]), (6.0, []), (7.0, ["other"])),
        ):
            now_s, reasons = at_s, found
            lines.look()
    logged = [line.split(" ", 1)[1].replace(line.split("[")[1].split("]")[0], "PID") for line in output.getvalue().splitlines()]
    assert logged == [
        "INFO supervisor[PID]: ready, 2.5 s after the start",
        "WARNING supervisor[PID]: not ready: 1.0 s behind",
        "INFO supervisor[PID]: ready",
        "WARNING supervisor[PID]: not ready: other",
    ]


def test_a_start_that_takes_long_says_what_it_waits_for() -> None:
    now_s = 0.0
    with logging_output(LoggingFormat.TEXT) as output:
        lines = ReadyLog(lambda: ["no sync yet", "no worker"], clock=lambda: now_s)
        for at_s in (1.0, 9.0, 11.0, 12.0):
            now_s = at_s
            lines.look()
    assert output.getvalue().count("not ready: no sync yet; no worker\n") == 1


def test_verbosity_says_which_levels_are_written_and_can_be_changed() -> None:
    """0: information; 1: details as well; 4: debug lines as well."""
    with logging_output(LoggingFormat.TEXT) as output:
        for verbosity in (0, 1, 3, 4, 10, 0):
            set_verbosity(verbosity)
            for level in (10, 15, 20):
                log.log(level, "line of level %d at %d", level, verbosity)
    logged = [line.split("]: ")[1].split()[3::2] for line in output.getvalue().splitlines()]
    assert logged == [
        *(["20", "0"], ["15", "1"], ["20", "1"], ["15", "3"], ["20", "3"]),
        *(["10", "4"], ["15", "4"], ["20", "4"], ["10", "10"], ["15", "10"], ["20", "10"], ["20", "0"]),
    ]
