"""The fuzz targets: inputs of untrusted bytes, each with the properties that hold for every input."""

import logging
import os
import struct
import tempfile

from collections.abc import Callable

from netpolq.addresses import is_of_one_host
from netpolq.errors import SnapshotError
from netpolq.ipc.channel import Failure, Hints, Refusal, Taken, decode, encode, unpack_hints
from netpolq.snapshot.layout import PREFIX_BYTES
from netpolq.snapshot.reader import SnapshotReader
from netpolq.sources.cni_results.result import MAX_ADDRESSES, ResultError, read_result
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.packet import COPY_BYTES, parse
from netpolq_worker.worker.reject import answer_to, answerable
from tests.fuzz.dns_targets import dns_message, dns_over_tcp
from tests.property.test_hostile_snapshots import with_right_checksums
from tests.support.compiled import encode as encode_snapshot
from tests.unit.snapshot.test_memfd import small_snapshot
from tests.unit.worker.test_flow_cache import FRIEND, FRIEND6, POD, view_that_admits
from tests.unit.worker.test_packet_loop import QueuedPacket, ServingWorker, tcp

_IMAGE = encode_snapshot(small_snapshot(), version=3)
_PATCH = struct.Struct("=HB")
_WORD = struct.Struct("=HI")
_PACKETS = [
    tcp("10.0.0.2"),
    tcp("10.0.0.3"),
    tcp("10.0.0.2"),
    tcp("10.0.0.2", port=81),
    tcp("10.0.0.1", "10.0.0.2"),
    tcp("10.0.0.130"),
]


def _serving() -> ServingWorker:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="npq-fuzz-")
    logging.disable()  # every failed evaluation would log a traceback
    made = ServingWorker(WorkerMetrics(0))
    made.flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    return made


class PacketTarget:
    """Any bytes as two packets in a row: each is read without an exception, or malformed, and gets exactly one verdict. An answer to it
    is readable.
    """

    def __init__(self) -> None:
        self._serving = _serving()
        self._number = 0

    def __call__(self, data: bytes) -> None:
        middle = data[0] % (len(data) + 1) if data else 0
        for sent in (data[1 : 1 + middle], data[1 + middle :]):
            packet = sent[:COPY_BYTES]
            flow = parse(packet)
            if flow is not None:
                source, destination, protocol, source_port, destination_port = flow
                assert len(source) == len(destination) in {4, 16}
                assert 0 <= protocol < 256
                assert 0 <= source_port < 65536
                assert 0 <= destination_port < 65536
            denied = answerable(packet)
            built = None if denied is None else answer_to(denied, denied.destination)
            assert built is None or (flow is not None and parse(built) is not None)
            self._number += 1
            self._serving.receive(QueuedPacket(self._number, packet))
            self._serving.drained()
            (answer,) = self._serving.kernel.answers.values()
            assert flow is not None or answer[1] is None, "what cannot be read was accepted"
            self._serving.kernel.answers.clear()
            assert not self._serving.kernel.waiting


def snapshot(data: bytes) -> None:
    """A snapshot with replaced bytes, truncated or extended: the reader rejects it, or it is unchanged."""
    snapshot_bytes = bytearray(_IMAGE)
    for offset, value in _PATCH.iter_unpack(data[1 : 1 + (len(data) - 1) // _PATCH.size * _PATCH.size] if data else b""):
        snapshot_bytes[offset % len(snapshot_bytes)] = value
    if data:
        snapshot_bytes = (
            snapshot_bytes[: len(snapshot_bytes) - data[0] // 8] if data[0] % 2 else snapshot_bytes + bytes(data[0] // 8)
        )
    try:
        view = SnapshotReader(bytes(snapshot_bytes))
    except SnapshotError:
        return
    # Only the padding between sections is covered by no checksum.
    expected = SnapshotReader(_IMAGE)
    for source in (FRIEND, FRIEND6):
        assert view.evaluate(source, POD, 6, 80) == expected.evaluate(source, POD, 6, 80)


class WordsTarget:
    """A snapshot with replaced u32s and valid checksums: with any content, every packet gets exactly one verdict."""

    def __init__(self) -> None:
        self._serving = _serving()
        self._number = 0

    def __call__(self, data: bytes) -> None:
        snapshot_bytes = bytearray(_IMAGE)
        for offset, word in _WORD.iter_unpack(data[: len(data) // _WORD.size * _WORD.size]):
            struct.pack_into("=I", snapshot_bytes, PREFIX_BYTES + offset * 4 % (len(snapshot_bytes) - PREFIX_BYTES), word)
        try:
            view = SnapshotReader(with_right_checksums(snapshot_bytes))
            self._serving.flow_cache.load(view, None)
        except SnapshotError:
            return
        self._serving.message_waits = True  # the loop notices the snapshot, as after a message of the pool
        self._serving.drained()
        for packet in _PACKETS:
            self._number += 1
            self._serving.receive(QueuedPacket(self._number, packet))
            self._serving.drained()
        assert len(self._serving.kernel.answers) == len(_PACKETS)
        self._serving.kernel.answers.clear()


def channel(data: bytes) -> None:
    """A message of another process: it decodes to a message that encodes again, or the decoder rejects it."""
    try:
        message = decode(data)
    except ValueError:
        return
    again = decode(encode(message))
    # The text at the end of these is cut to a length.
    if isinstance(message, Refusal | Taken | Failure):
        assert (type(again), again[:-1]) == (type(message), message[:-1])
    else:
        assert again == message
    if isinstance(message, Hints):
        try:
            list(unpack_hints(message))
        except ValueError:
            return


def cni_result(data: bytes) -> None:
    """A file of the container runtime: it gives addresses of hosts to a pod, or none, or is refused without a word of its content."""
    problem, result = "", None
    try:
        result = read_result(data)
    except ResultError as error:
        problem = str(error)
    assert problem in {"", "is not JSON"} or problem.endswith(" is not what libcni writes")
    if result is not None:
        assert result.namespace
        assert result.name
        assert result.uid
        assert 0 < len(result.addresses) <= MAX_ADDRESSES
        assert all(len(address) == 16 and is_of_one_host(address) for address in result.addresses)


TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "packet": PacketTarget,
    "snapshot": lambda: snapshot,
    "words": WordsTarget,
    "channel": lambda: channel,
    "cni-result": lambda: cni_result,
    "dns": lambda: dns_message,
    "dns-tcp": lambda: dns_over_tcp,
}
"""The targets by name. The fuzzing process creates its target once."""
