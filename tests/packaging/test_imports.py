"""Imports of the processes, and contents of the wheel."""

import subprocess
import sys
import zipfile

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
FORBIDDEN = (
    *("kubernetes", "uvloop", "asyncio", "aiohttp", "yaml", "orjson", "asyncinotify", "netpolq.model", "netpolq.settings"),
    *("dns", "netpolq_worker.dns"),
)


def test_pool_and_workers_import_no_heavy_module() -> None:
    """Workers are forks of the pool, so they have only the modules that it has imported."""
    code = "import sys, netpolq_worker.__main__, netpolq_worker.pool.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "netfilterqueue" in modules
    assert [name for name in FORBIDDEN if any(module == name or module.startswith(f"{name}.") for module in modules)] == []


def test_the_wheel_has_exactly_the_two_packages(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"netpolq", "netpolq_worker"}
    assert "netpolq/py.typed" in names
    assert "netpolq_worker/worker/loop.py" in names
    assert not [name for name in names if "test" in name]


def test_the_core_package_is_empty_at_its_root() -> None:
    """The pool imports netpolq/__init__.py, so its content would be in every worker."""
    assert (CHECKOUT / "netpolq" / "__init__.py").read_bytes() == b""
