"""The writer of conditions is part of a supervisor that is asked for it and watches a cluster, and of no other."""

import subprocess
import sys

from pathlib import Path

import pytest

from prometheus_client import CollectorRegistry

from netpolq.settings import resolve
from netpolq.supervisor.from_settings import make_source, write_policy_status


@pytest.mark.parametrize(
    ("arguments", "writers"),
    [
        ([], 0),
        (["--policy-status=false"], 0),
        (["--policy-status"], 1),
        (["--policy-status", "--manifests=FOLDER"], 0),
    ],
    ids=["default", "off", "on", "a folder of manifests"],
)
def test_there_is_a_writer_if_the_settings_ask_for_it_and_the_source_is_the_cluster(
    tmp_path: Path, arguments: list[str], writers: int
) -> None:
    settings = resolve([argument.replace("FOLDER", str(tmp_path)) for argument in arguments], {})
    source, registry = make_source(settings), CollectorRegistry()
    found = write_policy_status(settings, source, registry)
    for part in found:
        part.close()
    assert len(found) == writers
    exposed = registry.get_sample_value("netpolq_policy_status_writes_total", {"result": "written"})
    assert (exposed == 0.0) is bool(writers), "without a writer there is no series of it"


def test_without_the_option_nothing_of_the_writer_is_imported() -> None:
    program = (
        "import sys\n"
        "import netpolq.supervisor.app\n"
        "from netpolq.settings import resolve\n"
        "from netpolq.supervisor.from_settings import make_source, write_policy_status\n"
        "settings = resolve([], {})\n"
        "assert write_policy_status(settings, make_source(settings), None) == []\n"
        "print([name for name in sys.modules if name.startswith('netpolq.policy_status')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
