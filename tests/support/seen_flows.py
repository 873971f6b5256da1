"""Flow records for tests, in short form."""

import zlib

from netpolq.flows.record import Flow, FlowEnd, FlowRecord, FlowVerdict, encode
from netpolq.model import Labels

START_S = 1_700_000_000.0


def pod(name: str, address: str = "", /, **labels: str) -> FlowEnd:
    """A pod, given as namespace/name; without labels, `app` is its name. Without an address, one that depends on the name."""
    namespace, own = name.split("/")
    number = zlib.crc32(name.encode()) % 0xFFFE + 1
    found = {key.replace("__", "-"): value for key, value in labels.items()}
    return FlowEnd(address or f"10.0.{number >> 8}.{number & 255}", namespace, own, Labels(found or {"app": own}))


def bare(name: str, address: str) -> FlowEnd:
    """A pod without labels."""
    return pod(name, address)._replace(labels=Labels())


def outside(address: str, *names: str) -> FlowEnd:
    """An end that is no pod."""
    return FlowEnd(address, names=names)


def record(
    source: FlowEnd,
    destination: FlowEnd,
    port: int | None = 80,
    protocol: str = "TCP",
    verdict: FlowVerdict = FlowVerdict.ACCEPT,
    *,
    at_s: float = 0,
    connections: int = 1,
) -> FlowRecord:
    """A record of one window. `at_s`: when it was seen."""
    start_s = START_S + at_s
    return FlowRecord(
        flow=Flow(source, destination, protocol, port, verdict),
        node="node-a",
        window_start_s=start_s,
        window_s=60.0,
        first_seen_s=start_s,
        last_seen_s=start_s,
        connections=connections,
    )


def line(source: FlowEnd, destination: FlowEnd, port: int | None = 80) -> str:
    """A record as a line."""
    return encode(record(source, destination, port)).decode()
