"""Every shape of the load test runs once, with a tiny load. The figures have no meaning and are not checked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtest.document import Document
from loadtest.native.build import program
from loadtest.parameters import Parameters
from loadtest.shapes import SHAPES
from loadtest.testbed import netns
from loadtest.testbed.box import CHECKOUT
from netpolq_worker.worker.nfqueue import RECEIVE_BUFFER_BYTES

LIMIT_S = 100.0

pytestmark = pytest.mark.loadtest


def start(*words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "loadtest", *words]
    return subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_behind(pid: int) -> list[str]:
    """Namespaces and folders that a load test has left behind."""
    prefix = f"npq-{pid}-"
    return [*netns.existing(prefix), *(str(path) for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"))]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code and the output. The load test may leave nothing behind."""
    try:
        output, progress = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert left_behind(process.pid) == []
    return process.returncode, output, progress


def quick(folder: Path, *words: str) -> tuple[int, Document, str]:
    code, output, progress = finish(start("--quick", "--output", str(folder), *words))
    assert (folder / "results.json").is_file(), progress
    return code, json.loads((folder / "results.json").read_text(encoding="utf-8")), output


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_runs_and_reports_every_variant(name: str, tmp_path: Path) -> None:
    """One round of each variant, no verdict, the page and the table."""
    code, document, output = quick(tmp_path, name)
    assert document["quick"]
    (shape,) = document["shapes"]
    assert shape["failure"] == ""
    wanted = SHAPES[name](Parameters(quick=True, packets=5_000))
    assert [variant["name"] for variant in shape["variants"]] == [variant.name for variant in wanted.variants()]
    assert all(len(variant["samples"]) == 1 and variant["samples"][0]["values"] for variant in shape["variants"])
    assert {target["outcome"] for target in shape["targets"]} <= {"undecided"}
    assert code == 0
    assert wanted.title in output
    assert wanted.title in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_external_agent_is_one_more_variant_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    template = f"{program('accept')} {{queue}} 1 4096 128 {RECEIVE_BUFFER_BYTES}"
    _, document, _ = quick(tmp_path, "new-flows", "--external", f"accepting={template}")
    (variant,) = (variant for variant in document["shapes"][0]["variants"] if variant["name"] == "accepting")
    assert variant["summary"]["judged_per_s"]["median"] > 0
    assert variant["summary"]["accepted_share"]["median"] == 1.0


def test_another_build_runs_its_own_code_beside_this_one(tmp_path: Path) -> None:
    other, used = tmp_path / "other", tmp_path / "used"
    for package in ("netpolq", "workers"):
        shutil.copytree(CHECKOUT / package, other / package)
    modules = {
        "netpolq.cli": "netpolq/cli/__init__.py",
        "netpolq_worker.worker.packet_loop": "workers/netpolq_worker/worker/packet_loop.py",
    }
    for path in modules.values():
        with (other / path).open("a", encoding="utf-8") as module:
            module.write(f"\nopen({str(used)!r}, 'a').write(__name__ + '\\n')\n")
    _, document, output = quick(tmp_path, "new-flows", "--compare", str(other))
    assert set(used.read_text(encoding="utf-8").split()) == set(modules)
    twin = f"netpolq (of {other})"
    by_name = {variant["name"]: variant for variant in document["shapes"][0]["variants"]}
    assert by_name[twin]["summary"]["delivered_per_s"]["median"] > 0
    assert f"delivered/s of netpolq beside {twin}" in output


def test_an_external_agent_that_ends_early_fails_the_shape_by_its_template(tmp_path: Path) -> None:
    template = "sh -c 'echo of all places >&2; exit 3' {queue}"
    code, document, _ = quick(tmp_path, "new-flows", "--external", f"broken={template}")
    assert code == 1
    failure = document["shapes"][0]["failure"]
    assert f"--external broken={template}: ended early, with exit code 3: of all places" in failure


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_load_leaves_nothing(number: signal.Signals) -> None:
    limit_before = Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text(encoding="ascii")
    process = start("new-flows", "--rounds", "50")
    assert process.stderr is not None
    for line in process.stderr:
        if "round 1 of 50" in line:
            break
    os.kill(process.pid, number)
    code, _, progress = finish(process)
    assert code == 130
    assert "interrupted" in progress
    assert Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text(encoding="ascii") == limit_before
    assert running("loadtest/native/build") == []


def running(part: str) -> Sequence[str]:
    """Command lines that contain a text, of processes that still run after a moment."""
    deadline_s = time.monotonic() + 2.0
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(CHECKOUT / part) in words:
                found.append(words)
        if not found or time.monotonic() > deadline_s:
            return found
        time.sleep(0.05)
