"""Snapshots with valid checksums and invalid words: reads stay in bounds and end, and every packet gets a verdict.

Only a faulty supervisor writes such a snapshot. A worker must survive it.
"""

import random
import struct
import zlib

from collections.abc import Iterator

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.enums import Verdict
from netpolq.errors import SnapshotError
from netpolq.snapshot.layout import HEADER, PREFIX_BYTES, SECTION, Section
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.metrics import WorkerMetrics
from tests.support.clusters import random_cluster
from tests.support.compiled import Compilation
from tests.support.sizes import sized
from tests.support.worker_metrics import worker_metrics
from tests.unit.worker.test_packet_loop import QueuedPacket, ServingWorker, tcp, tcp6

LIMIT_MS = 10_000
"""For what takes milliseconds: an endless search is found, a busy machine is none."""


def image_of(seed: int) -> bytes:
    """A snapshot with everything in it that there is."""
    rng = random.Random(seed)
    while True:
        compilation = Compilation(random_cluster(rng).store(), with_pod_names=True)
        compilation.apply(compilation.compiler.everything(with_node_addresses=True))
        store, image = compilation.store, compilation.encoded(version=2)
        if len(store.policies) > 3 and len(list(SnapshotReader(image).endpoints())) > 3:
            return image


IMAGES = st.sampled_from([image_of(seed) for seed in range(6)])
SOUND = image_of(0)
_V4 = [*(f"10.0.0.{number}" for number in range(1, 6)), "192.0.2.1"]
_V6 = [f"fd00::{number}" for number in range(1, 6)]
PACKETS = [tcp(one, other) for one in _V4 for other in _V4] + [tcp6(one, other) for one in _V6 for other in _V6]
words = st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF]) | st.integers(0, 4000)


def with_right_checksums(data: bytearray) -> bytes:
    for section in Section:
        position = HEADER.size + section * SECTION.size
        offset, length, _checksum, entries = SECTION.unpack_from(data, position)
        SECTION.pack_into(data, position, offset, length, zlib.crc32(data[offset : offset + length]), entries)
    for checksum in (0, None):
        struct.pack_into("=I", data, HEADER.size - 4, zlib.crc32(data[:PREFIX_BYTES]) if checksum is None else checksum)
    return bytes(data)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerMetrics]:
    with worker_metrics(tmp_path_factory.mktemp("metrics")) as metrics:
        yield metrics


def evaluate_with(metrics: WorkerMetrics, image: bytes) -> None:
    """Load another snapshot in a worker that has a valid one, and evaluate packets with the one it has then."""
    serving = ServingWorker(metrics)
    sound = SnapshotReader(SOUND)
    serving.flow_cache.load(sound, None)
    try:
        serving.flow_cache.load(SnapshotReader(image), None)
    except SnapshotError:
        assert serving.flow_cache.view is sound
    for number, packet in enumerate(PACKETS * 3, 1):
        serving.receive(QueuedPacket(number, packet))
        serving.drained()
    assert not serving.kernel.waiting
    assert len(serving.kernel.answers) == 3 * len(PACKETS)
    # The failure mode is to drop: a packet that cannot be evaluated has no mark of an acceptance.
    assert all((verdict is Verdict.ACCEPT) is bool(mark) for verdict, mark in serving.kernel.answers.values())


@settings(max_examples=sized(150), deadline=LIMIT_MS)
@given(IMAGES, st.lists(st.tuples(st.sampled_from(Section), st.integers(0, 1 << 20), words), min_size=1, max_size=30))
def test_words_that_are_wrong_leave_no_packet_without_a_verdict(
    metrics: WorkerMetrics, image: bytes, patches: list[tuple[Section, int, int]]
) -> None:
    data = bytearray(image)
    for section, position, word in patches:
        offset, length, _checksum, _entries = SECTION.unpack_from(data, HEADER.size + section * SECTION.size)
        if length >= 4:
            struct.pack_into("=I", data, offset + position % (length // 4) * 4, word)
    evaluate_with(metrics, with_right_checksums(data))


@settings(max_examples=sized(100), deadline=LIMIT_MS)
@given(IMAGES, st.binary(min_size=16, max_size=600), st.integers(0, 1 << 20))
def test_random_bytes_with_right_checksums_leave_no_packet_without_a_verdict(
    metrics: WorkerMetrics, image: bytes, noise: bytes, position: int
) -> None:
    data = bytearray(image)
    start = PREFIX_BYTES + position % (len(data) - PREFIX_BYTES)
    end = min(start + len(noise), len(data))
    data[start:end] = noise[: end - start]
    evaluate_with(metrics, with_right_checksums(data))


@settings(max_examples=sized(200), deadline=LIMIT_MS)
@given(IMAGES, st.sampled_from(Section), st.data())
def test_sections_that_lie_elsewhere_are_refused_or_leave_no_packet_without_a_verdict(
    metrics: WorkerMetrics, image: bytes, section: Section, data: st.DataObject
) -> None:
    position = HEADER.size + section * SECTION.size
    offset, length, _checksum, entries = SECTION.unpack_from(image, position)
    # Near what it was, inside of the snapshot, or anything: only some of it gets past the checks.
    other_offset = data.draw(st.sampled_from([offset, offset + 8]) | st.integers(0, len(image)) | st.integers(0, 2**64 - 1))
    other_length = data.draw(st.sampled_from([length, 0]) | st.integers(0, length) | st.integers(0, 2**64 - 1))
    other_entries = data.draw(st.sampled_from([entries]) | st.integers(0, entries + 1) | st.integers(0, 2**32 - 1))
    changed = bytearray(image)
    SECTION.pack_into(changed, position, other_offset, other_length, 0, other_entries)
    evaluate_with(metrics, with_right_checksums(changed))
