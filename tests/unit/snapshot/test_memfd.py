"""Snapshots in shared memory and in the run directory."""

import fcntl
import mmap
import os

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq.enums import Protocol, Reason, Verdict
from netpolq.errors import SnapshotError
from netpolq.snapshot import memfd
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import AddressTable, CompiledDelta, PortRange, PortTable
from netpolq.snapshot.layout import ADDRESS_CELL, HEADER, PREFIX_BYTES, SECTION, Section
from netpolq.snapshot.reader import SnapshotReader
from tests.support.compiled import encode, ingress_policy

POD, PEER, STRANGER = (parse_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))


def small_snapshot() -> CompiledDelta:
    """One pod that admits one peer, and a block of each family, at TCP 80."""
    table = PortTable(every=None, ranges=((Protocol.TCP, (PortRange(80, 80, 0),)),), names=())
    ipv4, ipv6 = (
        AddressTable((int(first), int(first) + 128), (0, 0, 1, 0), ((table,),))
        for first in (IPv4Address("10.0.0.128"), IPv6Address("fd00::80"))
    )
    contents = ingress_policy("shop/web", endpoints=(POD,), friends=(PEER,), ports=table)
    tier = contents.tiers[1]
    assert tier is not None
    return replace(contents, tiers={1: tier._replace(ipv4=ipv4, ipv6=ipv6)})


def test_a_sealed_snapshot_can_be_evaluated_and_not_written() -> None:
    descriptor = memfd.seal(encode(small_snapshot(), version=7, created_ns=1))
    view = memfd.open_view(descriptor)
    assert view.version == 7
    assert view.evaluate(PEER, POD, Protocol.TCP, 80).verdict is Verdict.ACCEPT
    assert view.evaluate(PEER, POD, Protocol.TCP, 81).verdict is Verdict.DROP
    for address, verdict in (("10.0.0.255", Verdict.ACCEPT), ("fd00::ff", Verdict.ACCEPT), ("fd00::100", Verdict.DROP)):
        assert view.evaluate(parse_address(address), POD, Protocol.TCP, 80).verdict is verdict
    assert view.evaluate(STRANGER, POD, Protocol.TCP, 80).reason is Reason.DENIED
    assert view.evaluate(POD, STRANGER, Protocol.TCP, 80).reason is Reason.NOT_ISOLATED
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_WRITE)
    view.close()
    os.close(descriptor)


def test_memory_that_could_still_change_is_refused() -> None:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, encode(small_snapshot(), version=1, created_ns=1))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(SnapshotError, match="not sealed"):
        memfd.open_view(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("position", [0, 8, 16, 24, HEADER.size, HEADER.size + 9, HEADER.size + 20])
def test_header_and_section_table_are_checked_for_a_trusted_snapshot(position: int) -> None:
    image = bytearray(encode(small_snapshot(), version=1, created_ns=1))
    image[position] ^= 1
    descriptor = memfd.seal(image)
    with pytest.raises(SnapshotError):
        memfd.map_trusted(descriptor)
    os.close(descriptor)


def test_memory_that_could_still_change_cannot_count_as_validated() -> None:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, encode(small_snapshot(), version=1, created_ns=1))
    with pytest.raises(SnapshotError, match="not sealed"):
        memfd.map_trusted(descriptor)
    os.close(descriptor)


def test_a_table_in_which_a_search_might_not_end_is_refused() -> None:
    builder = SnapshotBuilder()
    builder.apply(small_snapshot())
    header, cells, *rest = builder.pieces(version=1, created_ns=1)
    last_cell_full = bytes(cells)[: -ADDRESS_CELL.size] + ADDRESS_CELL.pack(STRANGER, 1)
    for opened in (memfd.open_view, memfd.map_trusted):
        descriptor = memfd.seal(header, last_cell_full, *rest)
        with pytest.raises(SnapshotError, match="no empty cell"):
            opened(descriptor)
        os.close(descriptor)


def test_a_kept_snapshot_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    image = encode(small_snapshot(), version=3, created_ns=1)
    path.write_bytes(b"something older, and longer" * 1000)
    descriptor = memfd.seal(image)
    memfd.save(path, descriptor)
    memfd.mark(path, is_newest=True)
    os.close(descriptor)
    assert memfd.load(path) == image
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_kept_snapshot_that_may_not_be_the_newest_is_refused(tmp_path: Path) -> None:
    """As it is written, and after it is marked as outdated: a start with it could accept connections that are denied since."""
    path = tmp_path / "snapshot.bin"
    descriptor = memfd.seal(encode(small_snapshot(), version=3, created_ns=1))
    memfd.save(path, descriptor)
    with pytest.raises(SnapshotError, match="newer"):
        memfd.load(path)
    memfd.mark(path, is_newest=True)
    memfd.load(path)
    memfd.mark(path, is_newest=False)
    with pytest.raises(SnapshotError, match="newer"):
        memfd.load(path)
    memfd.mark(path, is_newest=True)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(SnapshotError):
        memfd.load(path)
    os.close(descriptor)


def test_a_link_or_another_users_file_is_no_kept_snapshot(tmp_path: Path) -> None:
    path, target = tmp_path / "snapshot.bin", tmp_path / "elsewhere"
    descriptor = memfd.seal(encode(small_snapshot(), version=3, created_ns=1))
    memfd.save(target, descriptor)
    memfd.mark(target, is_newest=True)
    path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        memfd.load(path)
    before = target.read_bytes()
    memfd.save(path, descriptor)
    assert target.read_bytes() == before
    os.chown(path, 65534, 65534)
    with pytest.raises(SnapshotError, match="must be a regular file owned by user"):
        memfd.load(path)
    os.close(descriptor)


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_snapshot_is_refused(data: st.DataObject) -> None:
    """Any flipped bit, any truncation, any appended byte: the checksums and bounds see it."""
    image = encode(small_snapshot(), version=3, created_ns=1)
    position = data.draw(st.integers(0, len(image) - 1))
    flipped = bytearray(image)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    damaged = [image[:position], image + b"\x00" * (position + 1)]
    if position in _informative(image):
        damaged.append(bytes(flipped))
    for bad in damaged:
        with pytest.raises(SnapshotError):
            SnapshotReader(bad)


def _informative(image: bytes) -> set[int]:
    """All offsets but the padding between sections, which no reader reads."""
    places = set(range(PREFIX_BYTES))
    for section in Section:
        offset, length, _checksum, _entries = SECTION.unpack_from(image, HEADER.size + section * SECTION.size)
        places |= set(range(offset, offset + length))
    return places


def test_equal_contents_give_equal_bytes() -> None:
    assert encode(small_snapshot(), version=1, created_ns=5) == encode(small_snapshot(), version=1, created_ns=5)
