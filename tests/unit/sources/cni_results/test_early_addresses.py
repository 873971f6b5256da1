"""The join of API and CNI results: which pod of the store has which address, after every order of events."""

import itertools

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import format_address, parse_address
from netpolq.model import Namespace, Object, ObjectKey, Pod, Rejection, Update
from netpolq.sources.cni_results.early_addresses import EarlyAddresses
from netpolq.sources.cni_results.folder import ResultFile
from netpolq.sources.cni_results.result import CniResult
from netpolq.store import Store

NODE, OTHER_NODE = "node-1", "node-2"
HOST = "192.0.2.1"


def pod(name: str, *ips: str, uid: str = "u1", node: str = NODE) -> Pod:
    """A pod as the API reports it, Pending while it has no address."""
    return Pod(
        namespace="app",
        name=name,
        labels={},
        ips=tuple(map(parse_address, ips)),
        node_name=node,
        running=bool(ips),
        uid="" if ips else uid,
    )


def file(name: str, *ips: str, uid: str = "u1", sandbox: str = "s1", written: int = 0) -> ResultFile:
    addresses = tuple(map(parse_address, ips))
    return ResultFile(written, CniResult(namespace="app", name=name, uid=uid, container_id=sandbox, addresses=addresses))


class Joined:
    """The join and the store behind it, as the supervisor connects them."""

    def __init__(self, *objects: Object) -> None:
        self.store = Store()
        self.early = EarlyAddresses(NODE, self.store.pods_with_address)
        self.files: dict[str, ResultFile] = {}
        self.updates = 0
        self._update(upserted=objects)

    def _update(
        self, *, upserted: Sequence[Object] = (), deleted: Sequence[ObjectKey] = (), rejections: tuple[Rejection, ...] = ()
    ) -> None:
        update = Update(
            upserted=tuple(upserted), deleted=tuple(deleted), rejections=rejections, ignored={"Service": 1}, observed_ns=7
        )
        self.store.apply(self.early.on_update(update))

    def put(self, *objects: Object) -> None:
        self._update(upserted=objects)

    def delete(self, *names: str) -> None:
        self._update(deleted=[ObjectKey("Pod", "app", name) for name in names])

    def write(self, **files: ResultFile) -> None:
        self.files |= files
        self._read()

    def remove(self, *names: str) -> None:
        for name in names:
            del self.files[name]
        self._read()

    def _read(self) -> None:
        update = self.early.on_results(self.files.values(), 9)
        if update is not None:
            self.updates += 1
            self.store.apply(update)

    def addresses(self, name: str = "web") -> list[str]:
        return list(map(format_address, self.store.pods["app", name].ips))


def test_a_pod_without_an_address_gets_the_one_in_its_file() -> None:
    joined = Joined(pod("web"))
    joined.write(f=file("web", "10.1.0.7", "fd00::7"))
    assert joined.addresses() == ["10.1.0.7", "fd00::7"]
    assert (joined.early.count, joined.early.total) == (2, 2)
    owner = joined.store.owner(parse_address("fd00::7"))
    assert owner is not None
    assert owner.name == "web"
    joined.put(pod("web", "10.1.0.7", "fd00::7"))
    assert (joined.early.count, joined.early.total) == (0, 2)


def test_a_file_that_comes_before_its_pod_or_before_the_first_sync_counts_with_it() -> None:
    store = Store()
    early = EarlyAddresses(NODE, store.pods_with_address)
    assert early.on_results([file("web", "10.1.0.7")], 1) is None
    first = early.on_update(Update(upserted=(pod("web"), pod("db")), ignored={}, observed_ns=2))
    assert [item.ips for item in first.upserted if isinstance(item, Pod)] == [(parse_address("10.1.0.7"),), ()]
    joined = Joined()
    joined.write(f=file("web", "10.1.0.7"))
    assert joined.updates == 0
    joined.put(pod("web"))
    assert joined.addresses() == ["10.1.0.7"]


INELIGIBLE: dict[str, Pod] = {
    "of another node": pod("web", node=OTHER_NODE),
    "of no node yet": pod("web", node=""),
    "on the host's network": replace(pod("web"), host_network=True),
    "completed": replace(pod("web"), completed=True),
    "being deleted": replace(pod("web"), terminating=True),
    "with another UID": pod("web", uid="u2"),
    "without a UID": pod("web", uid=""),
    "of another name": pod("web-2"),
    "of another namespace": replace(pod("web"), namespace="other"),
    "with an address": replace(pod("web", "10.1.0.9"), uid="u1"),
}


@pytest.mark.parametrize("made", INELIGIBLE.values(), ids=INELIGIBLE)
@pytest.mark.parametrize("file_first", [True, False], ids=["file first", "pod first"])
def test_a_pod_that_may_not_have_the_address_of_a_file_stays_as_it_is(made: Pod, file_first: bool) -> None:
    joined = Joined()
    steps: list[Callable[[], None]] = [lambda: joined.write(f=file("web", "10.1.0.7")), lambda: joined.put(made)]
    for step in steps if file_first else reversed(steps):
        step()
    assert list(joined.store.pods.values()) == [made]
    assert joined.early.count == 0


@pytest.mark.parametrize("made", [made for made in INELIGIBLE.values() if made.key == pod("web").key])
def test_a_pod_that_may_no_longer_have_the_address_of_a_file_loses_it(made: Pod) -> None:
    joined = Joined(pod("web"))
    joined.write(f=file("web", "10.1.0.7"))
    joined.put(made)
    assert list(joined.store.pods.values()) == [made]
    assert joined.store.owner(parse_address("10.1.0.7")) is None
    joined.remove("f")
    assert joined.updates == 1


def test_the_status_of_the_api_wins_and_stays_without_the_file() -> None:
    joined = Joined(pod("web"))
    joined.write(f=file("web", "10.1.0.7"))
    joined.put(pod("web", "10.1.0.8"))
    assert joined.addresses() == ["10.1.0.8"]
    joined.remove("f")
    assert joined.addresses() == ["10.1.0.8"]


def test_a_file_that_goes_withdraws_an_early_address() -> None:
    joined = Joined(pod("web"))
    joined.write(f=file("web", "10.1.0.7"))
    joined.remove("f")
    assert joined.addresses() == []
    assert joined.store.owner(parse_address("10.1.0.7")) is None


def test_a_pod_that_is_made_anew_under_its_name_does_not_get_the_address_of_the_former_one() -> None:
    joined = Joined(pod("web"))
    joined.write(old=file("web", "10.1.0.7"))
    joined.delete("web")
    joined.put(pod("web", uid="u2"))
    assert joined.addresses() == []
    joined.write(new=file("web", "10.1.0.8", uid="u2", sandbox="s2"))
    assert joined.addresses() == ["10.1.0.8"]


def test_the_files_of_one_sandbox_add_up_and_the_newest_sandbox_counts() -> None:
    joined = Joined(pod("web"))
    joined.write(a=file("web", "10.1.0.7", written=1), b=file("web", "10.2.0.7", "10.1.0.7", written=2))
    assert joined.addresses() == ["10.1.0.7", "10.2.0.7"]
    joined.write(c=file("web", "10.1.0.8", sandbox="s0", written=3))
    assert joined.addresses() == ["10.1.0.8"]
    joined.remove("c")
    assert joined.addresses() == ["10.1.0.7", "10.2.0.7"]


@pytest.mark.parametrize("node", [NODE, OTHER_NODE])
def test_an_address_that_the_api_gives_to_a_pod_is_no_early_address(node: str) -> None:
    """In both orders, in one update, and again when the other pod goes."""
    other = pod("db", "10.1.0.7", node=node)
    joined = Joined(other, pod("web"))
    joined.write(f=file("web", "10.1.0.7", "10.1.0.8"))
    assert joined.addresses() == ["10.1.0.8"]
    joined.delete("db")
    assert joined.addresses() == ["10.1.0.7", "10.1.0.8"]
    joined.put(other)
    assert joined.addresses() == ["10.1.0.8"]
    joined.put(replace(other, completed=True))
    assert joined.addresses() == ["10.1.0.7", "10.1.0.8"]
    together = Joined()
    together.write(f=file("web", "10.1.0.7"))
    together.put(pod("web"), other)
    assert together.addresses() == []
    assert together.addresses("db") == ["10.1.0.7"]


def test_a_pod_of_this_node_that_is_being_deleted_does_not_keep_its_address_from_a_new_pod_and_one_of_another_node_does() -> None:
    joined = Joined(replace(pod("db", "10.1.0.7"), terminating=True), pod("web"))
    joined.write(f=file("web", "10.1.0.7"))
    owner = joined.store.owner(parse_address("10.1.0.7"))
    assert owner is not None
    assert owner.name == "web"
    joined.put(replace(pod("db", "10.1.0.7", node=OTHER_NODE), terminating=True))
    assert joined.addresses() == []


@pytest.mark.parametrize(
    "node_pod",
    [
        replace(pod("far", "10.1.0.7", node=OTHER_NODE), host_network=True),
        replace(pod("far", "10.1.0.7", node=OTHER_NODE), host_ips=(parse_address("10.1.0.7"),)),
    ],
    ids=["on its host's network", "with the address of its host"],
)
def test_a_pod_that_owns_no_address_keeps_none_from_another(node_pod: Pod) -> None:
    """In one update and in two, as in the store."""
    joined = Joined()
    joined.write(f=file("web", "10.1.0.7"))
    joined.put(pod("web"), node_pod)
    assert joined.addresses() == ["10.1.0.7"]
    joined.put(pod("web"))
    assert joined.addresses() == ["10.1.0.7"]


def test_an_address_of_the_node_is_no_early_address() -> None:
    agent = replace(pod("agent", HOST), host_network=True, host_ips=(parse_address(HOST),))
    joined = Joined(agent, pod("web"))
    joined.write(f=file("web", HOST))
    assert joined.addresses() == []
    joined.delete("agent")
    assert joined.addresses() == [HOST]


def test_an_address_that_the_files_of_two_pods_claim_is_neithers() -> None:
    joined = Joined(pod("web"), pod("db", uid="u2"))
    joined.write(f=file("web", "10.1.0.7"))
    assert joined.addresses() == ["10.1.0.7"]
    joined.write(g=file("db", "10.1.0.7", "10.1.0.8", uid="u2"))
    assert (joined.addresses(), joined.addresses("db")) == ([], ["10.1.0.8"])
    joined.put(pod("db", "10.1.0.8"))
    assert joined.addresses() == ["10.1.0.7"]


def test_an_update_without_a_pod_that_waits_passes_unchanged() -> None:
    joined = Joined()
    joined.write(f=file("web", "10.1.0.7"))
    update = Update(upserted=(pod("db"), pod("far", "10.9.0.1", node=OTHER_NODE)), ignored={}, observed_ns=1)
    assert joined.early.on_update(update) is update


def test_an_update_of_results_keeps_rejections_and_ignored_kinds_and_has_their_time() -> None:
    rejection = Rejection(origin="", message="bad", consequence="none")
    early = EarlyAddresses(NODE, lambda _address: ())
    early.on_update(Update(upserted=(pod("web"),), rejections=(rejection,), ignored={"Service": 1}, observed_ns=7))
    update = early.on_results([file("web", "10.1.0.7")], 9)
    assert update is not None
    assert (update.rejections, update.ignored, update.observed_ns) == ((rejection,), {"Service": 1}, 9)
    assert early.on_results([file("web", "10.1.0.7")], 10) is None


def test_a_change_of_a_pod_keeps_its_early_address_and_other_objects_pass() -> None:
    joined = Joined(pod("web"))
    joined.write(f=file("web", "10.1.0.7"))
    joined.put(replace(pod("web"), labels={"app": "web"}), Namespace(name="app", labels={}))
    assert joined.addresses() == ["10.1.0.7"]
    assert joined.store.pods["app", "web"].labels == {"app": "web"}
    assert "app" in joined.store.namespaces
    assert joined.early.total == 1


def _events(joined: Joined) -> list[Callable[[], None]]:
    """Events about different things, whose order must not matter."""
    return [
        lambda: joined.put(pod("web")),
        lambda: joined.put(pod("db", uid="u2")),
        lambda: joined.put(pod("far", "10.1.0.9", node=OTHER_NODE)),
        lambda: joined.write(a=file("web", "10.1.0.7", "10.1.0.9", written=1)),
        lambda: joined.write(b=file("db", "10.1.0.8", uid="u2", sandbox="s2")),
        lambda: joined.write(c=file("web", "10.1.0.1", uid="u0", written=5)),
    ]


def test_every_order_of_the_same_events_has_the_same_result() -> None:
    for order in itertools.permutations(range(6)):
        joined = Joined()
        events = _events(joined)
        for number in order:
            events[number]()
        found = {name: joined.addresses(name) for name in ("web", "db", "far")}
        assert found == {"web": ["10.1.0.7"], "db": ["10.1.0.8"], "far": ["10.1.0.9"]}, order


ADDRESSES = ("10.1.0.1", "10.1.0.2", HOST)
PODS = st.builds(
    lambda name, ips, uid, node, flags, host: replace(
        pod(name, *ips, uid=uid, node=node),
        host_network=flags[0],
        completed=flags[1],
        terminating=flags[2],
        host_ips=(parse_address(HOST),) if host else (),
    ),
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=1),
    st.sampled_from(["u1", "u2"]),
    st.sampled_from([NODE, NODE, OTHER_NODE]),
    st.sampled_from([(False, False, False)] * 4 + [(True, False, False), (False, True, False), (False, False, True)]),
    st.booleans(),
)
FILES = st.builds(
    lambda name, ips, uid, sandbox, written: file(name, *ips, uid=uid, sandbox=sandbox, written=written),
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=2),
    st.sampled_from(["u1", "u2"]),
    st.sampled_from(["s1", "s2"]),
    st.integers(0, 2),
)
STEPS = st.lists(
    st.tuples(st.just("put"), st.lists(PODS, min_size=1, max_size=2))
    | st.tuples(st.just("delete"), st.sampled_from(["a", "b", "c"]))
    | st.tuples(st.just("write"), st.sampled_from("fghi"), FILES)
    | st.tuples(st.just("remove"), st.sampled_from("fghi")),
    max_size=12,
)


@given(STEPS)
def test_the_result_depends_on_the_present_pods_and_files_only(steps: list[tuple[object, ...]]) -> None:
    joined = Joined()
    present: dict[ObjectKey, Pod] = {}
    for step in steps:
        match step:
            case ("put", list(pods)):
                joined.put(*pods)
                present |= {made.key: made for made in pods}
            case ("delete", str(name)):
                joined.delete(name)
                present.pop(ObjectKey("Pod", "app", name), None)
            case ("write", str(name), ResultFile() as made):
                joined.write(**{name: made})
            case ("remove", str(name)) if name in joined.files:
                joined.remove(name)
    fresh = Joined()
    fresh.write(**joined.files)
    fresh.put(*present.values())
    assert joined.store.pods == fresh.store.pods
    assert joined.early.count == fresh.early.count
    for key, reported in present.items():
        filled = joined.store.pods[key.namespace, key.name]
        if filled != reported:
            assert replace(filled, ips=()) == reported
            assert reported.node_name == NODE
            assert not reported.completed
            assert not reported.terminating
            assert not reported.host_network
            claims = [
                one.result for one in joined.files.values() if (one.result.name, one.result.uid) == (key.name, reported.uid)
            ]
            assert set(filled.ips) <= {address for claim in claims for address in claim.addresses}
            others = [other for other in present.values() if other.key != key and not (other.completed or other.host_network)]
            kept = [other for other in others if not (other.terminating and other.node_name == NODE)]
            assert not set(filled.ips) & {address for other in kept for address in other.ips}
