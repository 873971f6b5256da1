"""Parts of the supervisor are constructed in `app` alone. The import rules are checked by import-linter (pyproject.toml)."""

import ast

from pathlib import Path

import pytest

import netpolq.supervisor

FOLDER = Path(netpolq.supervisor.__path__[0])
MODULES = [path for path in sorted(FOLDER.rglob("*.py")) if path.name != "app.py"]


def called(path: Path) -> set[str]:
    """Names that a module calls: functions, and classes that it constructs."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def classes(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}


PARTS = called(FOLDER / "app.py") & {name for path in MODULES for name in classes(path)}


def test_app_constructs_all_parts() -> None:
    parts = "Enforcer Publisher PoolReader VerdictCache StrictMode RulesetUpkeep Hold Readiness LearnedNames TrustedResolvers"
    assert set(parts.split()) <= PARTS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_other_module_constructs_a_part(path: Path) -> None:
    assert not called(path) & PARTS
