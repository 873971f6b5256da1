"""The page about cluster-wide policy shows the recipes as they are in `config/recipes/`."""

import re

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from netpolq.sources.folder.manifest_file import parse

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


@pytest.mark.parametrize("version", ["v1alpha2", "v1beta1"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_in_both_versions(path: Path, version: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert "policy.networking.k8s.io/v1alpha2" in text

    content = parse(path.name, text.replace("policy.networking.k8s.io/v1alpha2", f"policy.networking.k8s.io/{version}").encode())

    assert content.rejections == ()
    assert len(content.objects) == text.count("kind: ")


def test_the_problem_of_a_rule_that_fails_closed_is_shown_as_it_is_reported() -> None:
    body = yaml.safe_load((ROOT / "config/demo/cluster-policies/admin-no-metadata.yaml").read_text(encoding="utf-8"))
    body["metadata"]["name"] = "updates"
    body["spec"]["egress"] = [{"action": "Deny", "to": [{"domainNames": ["deb.debian.org"]}]}]

    (rejection,) = parse("", yaml.safe_dump(body).encode()).rejections

    # An object of the API server has neither file nor document.
    assert f"```\n{replace(rejection, document=0)}\n```" in PAGE
