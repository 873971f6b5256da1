"""The documentation names files, flags and exit codes that exist, and its site builds without a warning."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys

from pathlib import Path
from typing import cast

import pytest

from netpolq.errors import ExitCode
from netpolq.settings.definitions import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "loadtest/README.md"))]
)
_PATH = re.compile(r"`((?:netpolq|workers|tests|loadtest|deploy|docs|config|unit|process|netns|property|packaging)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_in_the_documentation_exists(page: Path) -> None:
    """Renamed files are renamed in the documentation too. Paths of the promises are below `tests/`."""
    missing = [
        path
        for path in _PATH.findall(page.read_text(encoding="utf-8"))
        if not any((base / path).exists() for base in (ROOT, ROOT / "tests"))
    ]

    assert not missing


_EXPLAINED = re.compile(
    r"^\$ (netpolq (?:explain|matrix|recommend) --(?:manifests|flows) config/.*)\n((?:(?!```|\$ ).*\n)+)", re.MULTILINE
)
EXPLAINED = [
    pytest.param(*found, id=f"{page.name}-{number}")
    for page in PAGES
    for number, found in enumerate(_EXPLAINED.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("command", "shown"), EXPLAINED)
def test_an_answer_of_an_offline_command_in_the_documentation_is_the_real_one(command: str, shown: str) -> None:
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == (shown, "")


def test_every_page_is_in_the_navigation() -> None:
    """The generator does not warn about pages outside the navigation."""
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]

    assert [page for page in pages if f'"{page}"' not in navigation] == []


def readme_section(title: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.split(r"(?m)^#", text.partition(f"### {title}\n")[2])[0]


def test_the_table_of_flags_and_the_sample_file_are_those_of_the_options() -> None:
    """`make options` writes both. The table is replaced where its head is."""
    generated = cast("dict[Path, str]", runpy.run_path(str(ROOT / "config/generate.py"))["generated"]())

    for path, text in generated.items():
        assert path.read_text(encoding="utf-8") == text, "run `make options`"
    rows = re.findall(r"(?m)^\| `--([\w-]+)", readme_section("Flags"))
    assert rows == [option.name for option in OPTIONS]


def test_the_readme_lists_every_exit_code() -> None:
    codes = re.findall(r"(?m)^\| (\d+) \|", readme_section("Exit codes"))

    assert [int(code) for code in codes] == sorted(ExitCode)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("zensical")
    return subprocess.run([program, "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def test_the_site_builds_without_a_warning(copy: Path) -> None:
    """`make docs` leaves a site that needs nothing from the internet."""
    built = build(copy)

    assert built.returncode == 0, built.stdout + built.stderr
    page = (copy / "build/site/index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src="|rel="stylesheet" href=")https?://""", page)


@pytest.mark.parametrize("link", ["nowhere.md", "architecture.md#nothing"])
def test_a_link_that_leads_nowhere_fails_the_build(copy: Path, link: str) -> None:
    """The generator checks links and anchors."""
    with (copy / "docs/index.md").open("a", encoding="utf-8") as index:
        index.write(f"\n[link]({link})\n")

    assert build(copy).returncode != 0
