"""Flow records from a file of JSON lines, checked and in memory. Another source of records only has to return the same list."""

import os
import sys

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from netpolq.addresses import is_of_one_host, parse_address
from netpolq.errors import NetpolqError
from netpolq.explain.flow import parse_protocol
from netpolq.flows.record import OTHER_ADDRESSES, FlowEnd, FlowRecord, decode
from netpolq.sources.decode.fields import Field, FieldError
from netpolq.sources.decode.validation import labels_where_valid, namespace_name, object_name

MAX_RECORDS = 500_000
"""Bound of memory and time: some 2 KB a record."""

MAX_LINE_BYTES = 256 * 1024
"""A record with two pods of 63 long labels each fits many times."""


def read_file(path: str) -> list[FlowRecord]:
    """Return the records of a file; `-`: of standard input. Empty lines are left out.

    Raises `NetpolqError`: for a line that is no record it names file, line and field.
    """
    name = "standard input" if path == "-" else path
    try:
        with _opened(path) as stream:
            return read_lines(stream, name)
    except OSError as error:
        raise NetpolqError(
            f"--flows {name!r}: {error.strerror}; give a readable file of flow records, one JSON object a line"
        ) from error


def read_lines(stream: BinaryIO, name: str) -> list[FlowRecord]:
    """Return the records in a stream. `name`: of the file, for errors. Raises `NetpolqError`."""
    records: list[FlowRecord] = []
    ends: dict[FlowEnd, FlowEnd] = {}
    protocols: set[str] = set()
    for number, line in enumerate(_lines(stream), 1):
        if not line.strip():
            continue
        if len(records) == MAX_RECORDS:
            raise NetpolqError(
                f"{name}: more than {MAX_RECORDS} records, the most for one recommendation; give a part of the file"
            )
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
            record = _checked(decode(line), ends, protocols)
        except (ValueError, FieldError) as error:
            raise NetpolqError(f"{name}:{number}: {error}; expected: a flow record, one JSON object a line") from error
        records.append(record)
    return records


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if path == "-" else Path(path).open("rb")


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of a line that is too long, its beginning."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)


def _checked(record: FlowRecord, ends: dict[FlowEnd, FlowEnd], protocols: set[str]) -> FlowRecord:
    """Return the record, with equal ends as one object. `ends`, `protocols`: those that are valid.

    Raises `ValueError` or `FieldError` for what the API server would refuse in a policy.
    """
    flow = record.flow
    same = []
    for path, end in (("source", flow.source), ("destination", flow.destination)):
        known = ends.get(end)
        if known is None:
            _check_end(path, end)
            known = ends[end] = end
        same.append(known)
    if flow.protocol not in protocols:
        try:
            parse_protocol(flow.protocol)
        except ValueError as error:
            raise ValueError(f"field protocol: {flow.protocol[:40]!r} {error}") from error
        protocols.add(flow.protocol)
    return replace(record, flow=flow._replace(source=same[0], destination=same[1]))


def _check_end(path: str, end: FlowEnd) -> None:
    if bool(end.namespace) != bool(end.pod):
        raise ValueError(f"field {path}: namespace and pod must both be given, or both be null")
    if not end.pod:
        return
    if end.address == OTHER_ADDRESSES:
        raise ValueError(f"field {path}.address: must be an IP address, for a pod is named")
    if not is_of_one_host(parse_address(end.address)):
        raise ValueError(f"field {path}.address: {end.address} cannot be the address of a pod")
    namespace_name(Field(f"field {path}.namespace", end.namespace))
    object_name(Field(f"field {path}.pod", end.pod))

    def refuse(error: FieldError) -> None:
        raise error

    labels_where_valid(Field(f"field {path}.labels", end.labels), refuse)
