"""The document of objects: what may be asked for, what is refused, and that the event loop goes on while it is made."""

import asyncio

from contextlib import suppress

import orjson
import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import DenyWith
from netpolq.model import Pod, Rejection, Update
from netpolq.policy.excerpt import STEP_OBJECTS, Ends, PodKey, excerpt
from netpolq.store import Store
from netpolq.supervisor.object_codec import decoded, encoded
from netpolq.supervisor.objects_report import MAX_ENDS, ObjectsReport, decode, parse_query
from netpolq.supervisor.rollout_events import CompileStarted, Noticed, Published
from tests.support.progress import progress_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def test_ends_are_addresses_pods_and_names() -> None:
    query = [("end", text) for text in ("10.0.0.1", "fd00::1", "shop/web-0", "WWW.Example.com.", "shop/db.v2")]
    assert parse_query(query) == Ends(
        frozenset({parse_address("10.0.0.1"), parse_address("fd00::1")}),
        frozenset({PodKey("shop", "web-0"), PodKey("shop", "db.v2")}),
        frozenset({"www.example.com"}),
    )
    assert parse_query([]) is None


@pytest.mark.parametrize(
    "text",
    ["", "/", "shop/", "/web", "Shop/web", "a/b/c", "shop/web\n", "10.0.0.1/8", "a b", "%", "é.example", "x" * 255, "-a.b", "\0"],
)
def test_other_ends_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: an IP address, NAMESPACE/POD or a domain name"):
        parse_query([("end", text)])


def test_other_parameters_and_too_many_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="parameter 'pod' does not exist; allowed: end"):
        parse_query([("pod", "shop/web")])
    with pytest.raises(ValueError, match="allowed: at most 8"):
        parse_query([("end", "10.0.0.1")] * (MAX_ENDS + 1))


@given(st.lists(st.tuples(st.sampled_from(["end", "x"]), st.text(max_size=20)), max_size=4))
def test_any_query_is_read_or_refused(query: list[tuple[str, str]]) -> None:
    with suppress(ValueError):
        parse_query(query)


@given(st.sampled_from(["Pod", "Namespace", "Node", "NetworkPolicy", "ClusterNetworkPolicy", "Rejection", "Other"]), JSON)
def test_any_value_is_an_object_or_refused(kind: str, value: object) -> None:
    try:
        decoded(kind, value)
    except ValueError:
        return
    raise AssertionError("no random value is an object")


def test_an_object_with_a_field_of_another_type_is_refused() -> None:
    pod = Pod(namespace="shop", name="web", labels={"app": "web"}, ips=(parse_address("10.0.0.1"),))
    kind, fields = orjson.loads(encoded(pod))
    assert decoded(kind, fields) == pod
    for name in fields:
        with pytest.raises(ValueError, match=r"expected|not an object|not a valid|IP address"):
            decoded(kind, {**fields, name: 3.5})
        with pytest.raises(ValueError, match="Pod has other fields"):
            decoded(kind, {key: value for key, value in fields.items() if key != name})


def filled(pods: int) -> Store:
    store = Store()
    items = tuple(
        Pod(
            namespace=f"ns{number % 100}",
            name=f"pod-{number}",
            labels={"app": "web"},
            ips=(AddressKey(parse_address("10.0.0.0")[:12] + (0x0A000000 + number + 1).to_bytes(4)),),
            host_ips=(parse_address(f"192.168.{number % 50}.1"),),
            node_name=f"node-{number % 50}",
        )
        for number in range(pods)
    )
    store.apply(
        Update(upserted=items, rejections=(Rejection(origin="a.yaml", message="m", consequence="c"),), ignored={}, observed_ns=0)
    )
    return store


async def test_a_document_is_complete_or_refused() -> None:
    report = ObjectsReport(store=filled(3), progress=progress_of(), node="a", deny_with=DenyWith.DROP)
    report._progress.send(Noticed(0))
    report._progress.send(CompileStarted())
    report._progress.send(Published(1, (), ""))
    data = b"".join([piece async for piece in report.document([])])
    assert len(decode(data).objects) == 3
    assert decode(data).rejections == (Rejection(origin="a.yaml", message="m", consequence="c"),)
    assert decode(data).header.snapshot_version == 1
    lines = data.splitlines(keepends=True)
    for number in range(len(lines)):
        with pytest.raises(ValueError, match=r"document|expected|unpack"):
            decode(b"".join(lines[:number] + lines[number + 1 :]))


async def test_a_supervisor_that_has_not_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netpolq.supervisor.objects_report._SETTLE_S", 0.01)
    report = ObjectsReport(store=Store(), progress=progress_of(), node="a", deny_with=DenyWith.DROP)
    data = b"".join([piece async for piece in report.document([("end", "10.0.0.1")])])
    assert decode(data).header.compiled is False


async def test_a_document_waits_for_a_version_with_all_changes() -> None:
    progress = progress_of()
    progress.send(Noticed(0))
    report = ObjectsReport(store=filled(1), progress=progress, node="a", deny_with=DenyWith.DROP)

    async def received() -> bytes:
        return b"".join([piece async for piece in report.document([])])

    asking = asyncio.create_task(received())
    for event in (CompileStarted(), Published(7, (), "")):
        await asyncio.sleep(0.01)
        assert not asking.done()
        progress.send(event)
    header = decode(await asking).header
    assert (header.snapshot_version, header.in_force_version, header.is_ahead) == (7, 0, False)


def test_the_work_is_divided_into_steps() -> None:
    """No step looks at more than a part of the pods, so that the event loop goes on."""
    store = filled(3 * STEP_OBJECTS)
    steps = excerpt(store, Ends(pods=frozenset({PodKey("ns1", "pod-1")})))
    count = sum(1 for _ in steps)
    assert count == 3
