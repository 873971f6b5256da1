"""The export to a collector, against a real receiver that is killed, restarted, slow, busy or not a receiver at all.

Each record arrives at least once, or is counted as lost or rejected; what waits is bounded.
"""

import asyncio
import logging
import socket
import ssl

from pathlib import Path

import pytest
import trustme

from netpolq.flows.export.otlp.environment import OtlpEnvironment
from netpolq.flows.export.otlp.exporter import OtlpExporter, Timing
from tests.support.exporting import running
from tests.support.flow_records import record, records, unencodable
from tests.support.otlp_receiver import accepted_numbers, receiver, requests
from tests.support.polling import until

TIMING = Timing(request_s=10.0, first_delay_s=0.01, max_delay_s=0.05)


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
        return number


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "received"


def exporter_of(
    port: int,
    *,
    environment: OtlpEnvironment | None = None,
    timing: Timing = TIMING,
    capacity: int = 100_000,
    scheme: str = "http",
) -> OtlpExporter:
    return OtlpExporter(
        f"{scheme}://127.0.0.1:{port}/v1/logs",
        node="node-1",
        environment=OtlpEnvironment() if environment is None else environment,
        capacity=capacity,
        timing=timing,
        noise=lambda: 0.5,
    )


async def test_each_record_arrives_once_in_requests_of_bounded_size(port: int, file: Path) -> None:
    with receiver(port, file):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 1200))
            exporter.offer(records(1201, 3))
            await until(lambda: not exporter.waiting)
    assert accepted_numbers(file) == list(range(1, 1204))
    assert [len(request["numbers"]) for request in requests(file)] == [512, 512, 176, 3]  # type: ignore[arg-type]
    assert {request["type"] for request in requests(file)} == {"application/x-protobuf"}
    assert exporter.counts.as_mapping() == {"exported": 1203, "lost": 0, "rejected": 0}
    assert exporter.problem is None


async def test_records_survive_a_collector_that_is_killed_and_restarted(port: int, file: Path) -> None:
    """One is killed while it works on requests that it has not answered, and another time before it reads them."""
    async with running(exporter_of(port)) as exporter:
        exporter.offer(records(1, 600))
        await until(lambda: exporter.problem)
        assert exporter.problem == f"flow export to {exporter.target}: cannot connect: Connection refused"
        with receiver(port, file, "ok", "slow"):
            await until(lambda: len(requests(file)) >= 2)
        exporter.offer(records(601, 600))
        with receiver(port, file, "ok"):
            await until(lambda: len(requests(file)) >= 3)
        exporter.offer(records(1201, 600))
        await until(lambda: exporter.problem)
        with receiver(port, file):
            await until(lambda: not exporter.waiting)
    assert set(accepted_numbers(file)) == set(range(1, 1801))
    assert exporter.counts.as_mapping() == {"exported": 1800, "lost": 0, "rejected": 0}
    assert exporter.problem is None


async def test_a_record_that_comes_twice_has_the_same_identifier_and_no_two_share_one(port: int, file: Path) -> None:
    """So that the receiver can leave out the copy (log.record.uid)."""
    with receiver(port, file, "lost", "ok", "lost"):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 600))
            await until(lambda: not exporter.waiting)
    pairs = [pair for request in requests(file) for pair in zip(request["uids"], request["numbers"], strict=True)]  # type: ignore[call-overload]
    assert len(pairs) == 512 * 2 + 88 * 2
    assert len(set(pairs)) == len({uid for uid, _number in pairs}) == 600


NOT_ABOUT_THE_RECORDS = ("429", "502", "503", "504", "503:0", "401", "403", "404", "408", "307", "noise", "lost")


async def test_answers_that_are_not_about_the_records_make_them_wait(port: int, file: Path) -> None:
    """Each comes three times, then the receiver takes the records. It writes down what it refuses, unless it answers with noise."""
    expected: set[int] = set()
    async with running(exporter_of(port)) as exporter:
        with receiver(port, file, *(word for answer in NOT_ABOUT_THE_RECORDS for word in (*[answer] * 3, "ok"))):
            for number, answer in enumerate(NOT_ABOUT_THE_RECORDS):
                exporter.offer(records(1 + 5 * number, 5))
                expected |= set(range(1 + 5 * number, 6 + 5 * number))
                await until(lambda: not exporter.waiting)
                assert set(accepted_numbers(file)) == expected, answer
    assert sum(not request["accepted"] for request in requests(file)) == 3 * 10
    assert exporter.counts.as_mapping() == {"exported": len(expected), "lost": 0, "rejected": 0}


@pytest.mark.parametrize("answer", ["400", "415", "500"])
async def test_an_answer_about_the_records_ends_their_way_and_not_that_of_later_ones(port: int, file: Path, answer: str) -> None:
    with receiver(port, file, answer):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 5))
            await until(lambda: not exporter.waiting)
            assert exporter.problem is not None
            assert f"5 flow records were rejected: the answer is {answer} " in exporter.problem
            exporter.offer(records(6, 2))
            await until(lambda: not exporter.waiting)
            assert not exporter.problem
    assert accepted_numbers(file) == [6, 7]
    assert exporter.counts.as_mapping() == {"exported": 2, "lost": 0, "rejected": 5}


async def test_a_request_that_is_too_large_is_halved(port: int, file: Path) -> None:
    with receiver(port, file, "413", "413", "ok", "ok", "413", "ok"):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 9))
            await until(lambda: not exporter.waiting)
    assert accepted_numbers(file) == list(range(1, 10))
    sizes = [len(request["numbers"]) for request in requests(file)]  # type: ignore[arg-type]
    assert sizes == [9, 4, 2, 2, 5, 2, 3]


async def test_one_record_that_is_too_large_is_rejected(port: int, file: Path) -> None:
    with receiver(port, file, "413"):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 1))
            await until(lambda: not exporter.waiting)
    assert exporter.counts.rejected == 1


async def test_a_partial_success_is_counted_and_not_repeated(port: int, file: Path) -> None:
    with receiver(port, file, "partial:2"):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 5))
            await until(lambda: not exporter.waiting)
            assert exporter.problem is not None
            assert "2 of 5 flow records were rejected: too old" in exporter.problem
    assert len(requests(file)) == 1
    assert exporter.counts.as_mapping() == {"exported": 3, "lost": 0, "rejected": 2}


@pytest.mark.parametrize("answer", ["garbage", "html"])
async def test_what_answers_200_and_is_no_receiver_is_reported(port: int, file: Path, answer: str) -> None:
    with receiver(port, file, answer):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 5))
            await until(lambda: not exporter.waiting)
            assert exporter.problem is not None
            assert "is this the URL of an OTLP receiver?" in exporter.problem


async def test_a_slow_receiver_gets_the_records_again_when_the_time_is_over(port: int, file: Path) -> None:
    with receiver(port, file, "slow"):
        async with running(exporter_of(port, timing=Timing(request_s=1.0, first_delay_s=0.01))) as exporter:
            exporter.offer(records(1, 5))
            await until(lambda: exporter.problem)
            assert exporter.problem is not None
            assert "no answer within 1 s" in exporter.problem
            await until(lambda: not exporter.waiting)
    assert accepted_numbers(file) == [1, 2, 3, 4, 5] * 2


async def test_what_waits_is_bounded_and_the_newest_records_arrive(port: int, file: Path) -> None:
    async with running(exporter_of(port, capacity=2000)) as exporter:
        for first in range(1, 10_001, 500):
            exporter.offer(records(first, 500))
            await asyncio.sleep(0.001)
            assert exporter.waiting <= 2000
        with receiver(port, file):
            await until(lambda: not exporter.waiting)
    found = set(accepted_numbers(file))
    counts = exporter.counts
    assert len(found) == counts.exported == 2000
    assert counts.lost == 8000
    assert found >= set(range(9001, 10_001))


async def test_the_last_records_are_sent_when_the_agent_ends(port: int, file: Path) -> None:
    with receiver(port, file):
        async with running(exporter_of(port)) as exporter:
            exporter.offer(records(1, 700))
        assert exporter.waiting == 0
    assert accepted_numbers(file) == list(range(1, 701)), "a request under way is not sent a second time"


async def test_the_end_does_not_wait_for_a_receiver_without_an_answer(
    port: int, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("netpolq.flows.export.exporter.LAST_SEND_S", 0.2)
    with receiver(port, file, "slow"):
        async with running(exporter_of(port, timing=Timing(request_s=1000.0))) as exporter:
            exporter.offer(records(1, 3))
            await until(lambda: requests(file))
        assert exporter.waiting == 3
    assert "3 flow records are lost" in caplog.text


async def test_pauses_grow_differ_and_respect_what_the_receiver_asks_for(port: int, file: Path) -> None:
    timing = Timing()
    assert [timing.delay_s(failures, 0.5) for failures in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 30, 30, 30]
    assert (timing.delay_s(3, 0.0), timing.delay_s(3, 1.0)) == (2, 6)
    with receiver(port, file, "503:7"):
        exporter = exporter_of(port)
        exporter.offer(records(1, 1))
        assert await exporter._step() == 7.0
        assert await exporter._step() == 0.0
        await exporter._close()


# --- headers, compression, TLS ----------------------------------------------------------------------------------------------------


async def test_a_token_comes_from_the_environment_and_appears_nowhere_else(
    port: int, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver repeats it in its error."""
    environment = OtlpEnvironment.read({"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20s3cr3t-t0ken,x-scope=shop"})
    with caplog.at_level(logging.DEBUG), receiver(port, file, "403"):
        async with running(exporter_of(port, environment=environment)) as exporter:
            exporter.offer(records(1, 1))
            await until(lambda: exporter.problem)
            assert exporter.problem is not None
            assert exporter.problem.endswith("the answer is 403 Forbidden: refused Bearer ***")
            await until(lambda: not exporter.waiting)
    assert requests(file)[-1]["authorization"] == "Bearer s3cr3t-t0ken"
    assert "s3cr3t" not in caplog.text
    assert "s3cr3t" not in repr(environment)


async def test_a_token_in_a_file_may_change_while_the_agent_runs(port: int, file: Path, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    environment = OtlpEnvironment.read({}, headers)
    with receiver(port, file):
        async with running(exporter_of(port, environment=environment)) as exporter:
            exporter.offer(records(1, 1))
            await until(lambda: exporter.problem)
            assert exporter.problem is not None
            assert exporter.problem.endswith(f"{headers}: No such file or directory")
            for number, token in ((1, "first"), (2, "second")):
                headers.write_text(f"Authorization: Bearer {token}\n")
                await until(lambda: not exporter.waiting)
                exporter.offer(records(number + 1, 1))
                await until(lambda: not exporter.waiting)
    assert [request["authorization"] for request in requests(file)] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_requests_are_compressed_if_the_environment_says_so(port: int, file: Path) -> None:
    with receiver(port, file):
        environment = OtlpEnvironment.read({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"})
        async with running(exporter_of(port, environment=environment)) as exporter:
            exporter.offer(records(1, 5))
            await until(lambda: not exporter.waiting)
    assert accepted_numbers(file) == [1, 2, 3, 4, 5]
    assert {request["encoding"] for request in requests(file)} == {"gzip"}


async def test_a_receiver_must_have_a_certificate_of_the_given_authority(tmp_path: Path) -> None:
    """A wrong one is a problem, and the right one is used as soon as the file has it."""
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    certificate = tmp_path / "ca.pem"
    other.cert_pem.write_to_path(str(certificate))
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    environment = OtlpEnvironment.read({"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate)})
    async with (
        server,
        running(exporter_of(server.sockets[0].getsockname()[1], environment=environment, scheme="https")) as exporter,
    ):
        exporter.offer(records(1, 1))
        await until(lambda: exporter.problem)
        assert exporter.problem is not None
        assert "certificate" in exporter.problem.lower()
        assert not seen
        authority.cert_pem.write_to_path(str(certificate))
        await until(lambda: not exporter.waiting)
    assert seen == [b"POST /v1/logs HTTP/1.1\r\n"]


async def test_a_name_that_is_not_known_is_a_problem_in_short() -> None:
    exporter = OtlpExporter("http://collector.invalid:1/v1/logs", node="n", environment=OtlpEnvironment(), timing=TIMING)
    async with running(exporter):
        exporter.offer(records(1, 1))
        await until(lambda: exporter.problem)
        assert exporter.problem is not None
        assert exporter.problem.startswith("flow export to http://collector.invalid:1/v1/logs: cannot connect: ")
        assert len(exporter.problem) < 200


async def test_a_record_that_cannot_be_encoded_does_not_stop_the_export(port: int, file: Path) -> None:
    with receiver(port, file):
        async with running(exporter_of(port)) as exporter:
            exporter.offer([record(1), unencodable(2)])
            exporter.offer([record(3)])
            await until(lambda: not exporter.waiting)
    assert accepted_numbers(file) == [3]
    assert exporter.counts.as_mapping() == {"exported": 1, "lost": 0, "rejected": 2}
