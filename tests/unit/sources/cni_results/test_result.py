"""Reader of one CNI result: which addresses it gives to which pod, and what it refuses."""

import json

import orjson
import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import format_address, parse_address
from netpolq.sources.cni_results.result import MAX_ADDRESSES, CniResult, ResultError, read_result
from tests.support.cni_results import loopback_document, result_document

Document = dict[str, object]


def read(document: object) -> CniResult | None:
    return read_result(json.dumps(document).encode())


def document(*addresses: str) -> Document:
    return result_document("app/web", "u1", *(addresses or ("10.1.0.7",)))


def with_result(**fields: object) -> Document:
    return {**document(), "result": {"cniVersion": "1.0.0", **fields}}


def with_ip(address: object, **fields: object) -> Document:
    return with_result(ips=[{"address": address, **fields}])


def with_arguments(*pairs: object) -> Document:
    return {**document(), "cniArgs": list(pairs)}


def test_a_result_names_the_pod_its_sandbox_and_its_addresses_of_both_families() -> None:
    assert read(document("10.1.0.7", "fd00::7")) == CniResult(
        namespace="app",
        name="web",
        uid="u1",
        container_id="s1",
        addresses=(parse_address("10.1.0.7"), parse_address("fd00::7")),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ip4": {"ip": "10.1.0.7/24"}, "ip6": {"ip": "fd00::7/64"}}, ["10.1.0.7", "fd00::7"]),
        ({"ips": [{"version": "4", "address": "10.1.0.7/24"}]}, ["10.1.0.7"]),
        ({"ips": [{"address": "::ffff:10.1.0.7/120"}]}, ["10.1.0.7"]),
        ({"ips": [{"address": "10.1.0.7/32"}, {"address": "10.1.0.7/24"}]}, ["10.1.0.7"]),
        ({"ips": [{"address": "10.1.0.7/24"}, {"address": "fe80::1/64"}, {"address": "169.254.1.1/16"}]}, ["10.1.0.7"]),
        (
            {
                "ips": [{"address": "10.1.0.7/24", "interface": 0}, {"address": "10.1.0.1/24", "interface": 1}],
                "interfaces": [{"name": "eth0"}, {"name": "veth1"}],
            },
            ["10.1.0.7"],
        ),
        (
            {"ips": [{"address": "10.1.0.7/24", "interface": 0}], "interfaces": [{"name": "net1", "sandbox": "/run/netns/1"}]},
            ["10.1.0.7"],
        ),
    ],
    ids=["CNI 0.2", "CNI 0.3", "mapped", "twice", "link-local", "node's end of the link", "in the sandbox"],
)
def test_the_addresses_of_the_pod_are_found_in_every_version_of_a_result(fields: Document, expected: list[str]) -> None:
    found = read(with_result(**fields))
    assert found is not None
    assert list(map(format_address, found.addresses)) == expected


@pytest.mark.parametrize(
    "made",
    [
        loopback_document("app/web", "u1"),
        with_arguments(),
        with_arguments(["IgnoreUnknown", "1"], ["CONTAINER", "podman" * 100]),
        {key: value for key, value in document().items() if key != "cniArgs"},
        {key: value for key, value in document().items() if key != "result"},
        with_result(),
        with_result(ips=None),
        with_ip("fe80::1/64"),
        {**document(), "result": None},
    ],
    ids=[
        "loopback",
        "no arguments",
        "no pod",
        "no cniArgs",
        "no result",
        "no ips",
        "null ips",
        "link-local alone",
        "null result",
    ],
)
def test_a_file_that_gives_no_address_to_a_pod_is_no_problem(made: Document) -> None:
    assert read(made) is None


HOSTILE: dict[str, tuple[object, str]] = {
    "a list": ([], "its content"),
    "a string": ("x", "its content"),
    "another kind": ({**document(), "kind": "cniCacheV2"}, "kind"),
    "a kind of another type": ({**document(), "kind": ["cniCacheV1"]}, "kind"),
    "the older form, a result alone": ({"cniVersion": "0.3.1", "ips": [{"address": "10.1.0.7/24"}]}, "kind"),
    "arguments of another type": ({**document(), "cniArgs": {"K8S_POD_NAME": "web"}}, "cniArgs"),
    "an argument that is no pair": (with_arguments(["K8S_POD_NAME", "web", "x"]), "cniArgs[0]"),
    "an argument of another type": (with_arguments(["K8S_POD_NAME", 5]), "cniArgs[0][1]"),
    "an argument of any length": (with_arguments(["K8S_POD_NAME", "w" * 300]), "cniArgs[0][1]"),
    "too many arguments": (with_arguments(*[["A", "b"]] * 100), "cniArgs"),
    "no UID": (with_arguments(["K8S_POD_NAME", "web"], ["K8S_POD_NAMESPACE", "app"]), "cniArgs"),
    "an empty namespace": (with_arguments(["K8S_POD_NAME", "web"], ["K8S_POD_NAMESPACE", ""], ["K8S_POD_UID", "u"]), "cniArgs"),
    "a result of another type": ({**document(), "result": "secret"}, "result"),
    "a sandbox of any length": ({**document(), "containerId": "s" * 2000}, "containerId"),
    "ips of another type": (with_result(ips={}), "result.ips"),
    "an ip of another type": (with_result(ips=["secret"]), "result.ips[0]"),
    "an address of another type": (with_ip(7), "result.ips[0].address"),
    "no address": (with_ip(None), "result.ips[0].address"),
    "no IP address": (with_ip("secret/24"), "result.ips[0].address"),
    "no prefix length": (with_ip("10.1.0.7"), "result.ips[0].address"),
    "an empty prefix length": (with_ip("10.1.0.7/"), "result.ips[0].address"),
    "a prefix length too large": (with_ip("10.1.0.7/33"), "result.ips[0].address"),
    "a prefix length of digits that are not ASCII": (with_ip("10.1.0.7/²"), "result.ips[0].address"),
    "a zone": (with_ip("fe80::1%eth0/64"), "result.ips[0].address"),
    "a NUL": (with_ip("10.1.0.7\0/24"), "result.ips[0].address"),
    "loopback": (with_ip("127.0.0.1/8"), "result.ips[0].address"),
    "IPv6 loopback": (with_ip("::1/128"), "result.ips[0].address"),
    "unspecified": (with_ip("0.0.0.0/0"), "result.ips[0].address"),
    "IPv6 unspecified": (with_ip("::/0"), "result.ips[0].address"),
    "multicast": (with_ip("224.0.0.1/24"), "result.ips[0].address"),
    "IPv6 multicast": (with_ip("ff02::1/64"), "result.ips[0].address"),
    "broadcast": (with_ip("255.255.255.255/32"), "result.ips[0].address"),
    "mapped loopback": (with_ip("::ffff:127.0.0.1/128"), "result.ips[0].address"),
    "an interface that is not there": (with_ip("10.1.0.7/24", interface=0), "result.ips[0].interface"),
    "a negative interface": (with_ip("10.1.0.7/24", interface=-1), "result.ips[0].interface"),
    "an interface of another type": (
        with_result(ips=[{"address": "10.1.0.7/24", "interface": True}], interfaces=[{"name": "a"}, {"name": "eth0"}]),
        "result.ips[0].interface",
    ),
    "interfaces of another type": (with_result(ips=[], interfaces="secret"), "result.interfaces"),
    "too many addresses": (document(*(f"10.1.0.{n}" for n in range(MAX_ADDRESSES + 1))), "result.ips"),
    "ip4 of another type": (with_result(ip4="secret"), "result.ip4"),
    "loopback in ip4": (with_result(ip4={"ip": "127.0.0.1/8"}), "result.ip4.ip"),
}


@pytest.mark.parametrize(("made", "field"), HOSTILE.values(), ids=HOSTILE)
def test_what_libcni_does_not_write_is_refused_by_the_name_of_the_field(made: object, field: str) -> None:
    """The message quotes no content: a file has annotations of the pod."""
    with pytest.raises(ResultError) as raised:
        read(made)
    assert str(raised.value) == f"{field} is not what libcni writes"
    assert not raised.value.may_be_incomplete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        json.dumps(document()).encode()[:-1],
        b"\x80\xff\0",
        b"[" * 100_000,
        b'{"kind":' * 5000,
        b"\xef\xbb\xbf{}",
        b"NaN",
    ],
    ids=["empty", "begun", "cut", "binary", "deep", "deep objects", "byte order mark", "no JSON number"],
)
def test_what_is_not_json_may_be_incomplete(data: bytes) -> None:
    with pytest.raises(ResultError) as raised:
        read_result(data)
    assert raised.value.may_be_incomplete


def test_every_beginning_of_a_file_is_incomplete() -> None:
    data = json.dumps(document()).encode()
    for length in range(len(data)):
        with pytest.raises(ResultError) as raised:
            read_result(data[:length])
        assert raised.value.may_be_incomplete


def _mutate(value: object, path: list[int], other: object) -> object:
    """The value with another one at a place of its tree."""
    inner: list[object] = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not path or not inner:
        return other
    at = path[0] % len(inner)
    inner[at] = _mutate(inner[at], path[1:], other)
    return dict(zip(value, inner, strict=True)) if isinstance(value, dict) else inner


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(path=st.lists(st.integers(0, 20), max_size=5), other=JSON)
def test_any_value_in_any_place_gives_a_result_or_one_problem(path: list[int], other: object) -> None:
    made = _mutate(document("10.1.0.7", "fd00::7"), path, other)
    try:
        result = read_result(orjson.dumps(made))
    except ResultError:
        return
    assert result is None or (result.name and result.uid and 0 < len(result.addresses) <= MAX_ADDRESSES)
