"""Reader of one file in which libcni keeps the result of an attachment: bytes → the pod and its addresses.

The files also hold annotations of the pod (`capabilityArgs`) and the configuration of plug-ins, so an error names a field and never
quotes a value. Source: libcni/api.go (`cachedInfo`, kind cniCacheV1); CNI specification 1.1, "ADD Success"; 0.2 for `ip4` and `ip6`;
the arguments K8S_POD_*: containerd's and CRI-O's calls of libcni.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from netpolq.addresses import AddressKey, is_ipv4, is_of_one_host, parse_address
from netpolq.sources.decode.fields import Field, FieldError
from netpolq.sources.decode.validation import NAME_LENGTH

MAX_ADDRESSES = 16
"""Maximum number of addresses of one attachment."""

_KIND = "cniCacheV1"
_LOOPBACK_INTERFACE = "lo"
_MAX_ARGUMENTS = 64
_MAX_ID_LENGTH = 1024
_IPV4_LINK_LOCAL = bytes((169, 254))


@dataclass(frozen=True, slots=True, kw_only=True)
class CniResult:
    """The addresses of one attachment of a pod's sandbox to a network, in order. `container_id`: of the sandbox."""

    namespace: str
    name: str
    uid: str
    container_id: str
    addresses: tuple[AddressKey, ...]


class ResultError(Exception):
    """A file that is not such a result. `may_be_incomplete`: it is not JSON, so it may not be written to its end."""

    def __init__(self, message: str, *, may_be_incomplete: bool = False) -> None:
        super().__init__(message)
        self.may_be_incomplete = may_be_incomplete


def read_result(data: bytes) -> CniResult | None:
    """The result in a file, or None if it gives no address to a pod: a loopback interface, a container without a pod.

    Raises `ResultError`, and nothing else for any bytes.
    """
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ResultError("is not JSON", may_be_incomplete=True) from error
    try:
        return _result(Field("", body).record())
    except FieldError as error:
        raise ResultError(f"{error.path or 'its content'} is not what libcni writes") from error


def _result(body: Field) -> CniResult | None:
    if body.get("kind").value != _KIND:
        raise body.get("kind").error("another kind")
    if_name = body.get("ifName").text()
    arguments = dict(_arguments(body.get("cniArgs")))
    name = arguments.get("K8S_POD_NAME", "")
    if if_name == _LOOPBACK_INTERFACE or not name:
        return None
    uid, namespace = arguments.get("K8S_POD_UID", ""), arguments.get("K8S_POD_NAMESPACE", "")
    if not (uid and namespace):
        raise body.get("cniArgs").error("no UID or namespace")
    addresses = tuple(dict.fromkeys(_addresses(body.get("result").record(), if_name)))
    if not addresses:
        return None
    container_id = _short(body.get("containerId"), _MAX_ID_LENGTH)
    return CniResult(namespace=namespace, name=name, uid=uid, container_id=container_id, addresses=addresses)


def _short(field: Field, max_length: int) -> str:
    text = field.text()
    if len(text) > max_length:
        raise field.error("too long")
    return text


def _arguments(field: Field) -> Iterator[tuple[str, str]]:
    pairs = field.items()
    if len(pairs) > _MAX_ARGUMENTS:
        raise field.error("too many")
    for pair in pairs:
        parts = pair.items()
        if len(parts) != 2:
            raise pair.error("not a pair")
        key = parts[0].text()
        if key.startswith("K8S_POD_"):
            yield key, _short(parts[1], NAME_LENGTH)


def _addresses(result: Field, if_name: str) -> Iterator[AddressKey]:
    ips = result.get("ips").items()
    if len(ips) > MAX_ADDRESSES:
        raise result.get("ips").error("too many")
    interfaces = result.get("interfaces").items()
    fields = [ip.get("address") for ip in ips if _is_in_pod(ip.get("interface"), interfaces, if_name)]
    fields += [ip for name in ("ip4", "ip6") if not (ip := result.get(name).get("ip")).absent]
    for field in fields:
        address = _address(field)
        if not _is_link_local(address):
            yield address


def _is_in_pod(index: Field, interfaces: list[Field], if_name: str) -> bool:
    """Whether an address is the pod's and not one of the node's end of the link. Some plug-ins name no sandbox, and some no interface."""
    if index.absent:
        return True
    if type(index.value) is not int or not 0 <= index.value < len(interfaces):
        raise index.error("no such interface")
    interface = interfaces[index.value]
    return bool(interface.get("sandbox").text()) or interface.get("name").text() == if_name


def _address(field: Field) -> AddressKey:
    """The address of `10.244.1.7/24`. One that is not of one host would subject the node's own traffic to policy."""
    text, slash, length = field.text().partition("/")
    try:
        address = parse_address(text)
    except ValueError as error:
        raise field.error("no address") from error
    if not (slash and length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= (128 if ":" in text else 32)):
        raise field.error("no prefix length")
    if not is_of_one_host(address):
        raise field.error("not of one host")
    return address


def _is_link_local(address: AddressKey) -> bool:
    """Whether it is valid on its link only, where each pod may have the same one. Source: RFC 3927; RFC 4291 section 2.5.6."""
    return address[12:14] == _IPV4_LINK_LOCAL if is_ipv4(address) else address[0] == 0xFE and address[1] & 0xC0 == 0x80
