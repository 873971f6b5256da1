"""The page about cluster-wide policy shows the recipes as they are in `config/recipes/`."""

import re

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tiers.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "config/recipes").iterdir())
_BLOCK = re.compile(r"```yaml title=\"(config/recipes/[\w.-]+)\"\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_page_shows_a_recipe_as_its_file_has_it(path: Path) -> None:
    shown = dict(_BLOCK.findall(PAGE))

    assert shown.get(path.relative_to(ROOT).as_posix()) == path.read_text(encoding="utf-8")


def test_every_manifest_on_the_page_is_a_recipe() -> None:
    assert len(_BLOCK.findall(PAGE)) == PAGE.count("```yaml") == len(RECIPES)
