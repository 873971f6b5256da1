"""The manifest folder if the kernel refuses an inotify instance or watch. The limits apply to a user namespace of the test."""

import subprocess
import sys

from pathlib import Path

import pytest

from tests.support.manifest_texts import namespace

DEADLINE_S = 30

_WATCHER = """
import asyncio, logging, pathlib, sys
from netpolq.sources.folder.source import ManifestFolder

logging.basicConfig(format="%(message)s")
folder = pathlib.Path(sys.argv[1])
source = ManifestFolder(folder)
updates = 0

def deliver(update):
    global updates
    updates += 1
    print([item.name for item in update.upserted], source.problems, flush=True)
    if updates == 1:
        (folder / "b.yaml").write_text((folder / "a.yaml").read_text().replace("name: a", "name: b"))
    else:
        raise SystemExit

asyncio.run(source.run(deliver))
"""


@pytest.mark.parametrize(
    ("limit", "sysctl"),
    [("max_inotify_instances", "fs.inotify.max_user_instances"), ("max_inotify_watches", "fs.inotify.max_user_watches")],
)
def test_a_folder_is_scanned_regularly_where_inotify_is_used_up(tmp_path: Path, limit: str, sysctl: str) -> None:
    """A change is seen, and one line names the limit to raise."""
    (tmp_path / "a.yaml").write_text(namespace("a"))
    script = f'echo 0 > /proc/sys/user/{limit} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", _WATCHER, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("['a'] ")
    assert sysctl in first
    assert second.startswith("['b'] ")
    assert done.stderr.count(sysctl) == 1
