"""A supervisor that publishes given snapshots, damaged or not.

A real pool runs it instead of the agent's supervisor: `-m tests.support.publishing`.

It reads versions from the first file; `!` marks those to damage. It writes the pool's messages to the second file as JSON lines. It ends a
second after the last undamaged version is acknowledged.
"""

import json
import os
import socket
import sys
import time

from pathlib import Path

from netpolq.ipc.channel import Channel, Publish, Refusal, Report, Welcome
from netpolq.snapshot import memfd
from netpolq.snapshot.ir import CompiledDelta
from netpolq.snapshot.layout import PREFIX_BYTES
from tests.support.compiled import encode

_QUIET_S = 1.0
_LIMIT_S = 15.0


def main() -> None:
    commands, answers = (Path(argument) for argument in sys.argv[1:3])
    channel = Channel(socket.socket(fileno=os.dup(0)))
    events: list[dict[str, object]] = []
    wanted = 0
    for line in commands.read_text().split():
        version = int(line.rstrip("!"))
        data = bytearray(encode(CompiledDelta(), version=version))
        if line.endswith("!"):
            data[PREFIX_BYTES] ^= 1
        else:
            wanted = version
        descriptor = memfd.seal(data)
        channel.send(Publish(version, None), [descriptor])
        os.close(descriptor)
    started = time.monotonic()
    reached = 0
    # Time for messages of workers about a version that they should not have received.
    while time.monotonic() < started + _QUIET_S or (reached < wanted and time.monotonic() < started + _LIMIT_S):
        received = channel.receive()
        if received is None:
            time.sleep(0.01)
            continue
        match received[0]:
            case Report() as report:
                reached = max(reached, report.acked_version)
                events.append({"acked": report.acked_version})
            case Refusal() as refusal:
                events.append({"refused": refusal.version})
            case Welcome(version):
                events.append({"welcome": version})
    answers.write_text("\n".join(json.dumps(line) for line in events))
    sys.exit(2)  # "cannot start": the pool ends, too


if __name__ == "__main__":
    main()
