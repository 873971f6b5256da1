"""The page What-if, in a browser."""

from pathlib import Path

from playwright.sync_api import Page, expect

CUTS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: []
"""
BROKEN = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken, namespace: shop}
spec:
  podSelector: {matchLabels: {app: nothing}}
  ingress: [{ports: [{port: 80, endPort: 3}]}]
"""
SHOW = "Show what it changes"


def test_what_would_be_cut_comes_first_with_its_connections(page: Page, demo: str) -> None:
    """A pasted manifest."""
    page.goto(f"{demo}/#/what-if")
    page.get_by_label("Manifests: paste").fill(CUTS)
    page.get_by_role("button", name=SHOW).click()
    answer = page.get_by_role("region", name="What changes")
    expect(answer.locator(".verdict-line")).to_contain_text("would cut connections that were seen")
    expect(answer.locator("h2").first).to_have_text("Would be denied")
    expect(answer.locator("tbody tr").first).to_contain_text("shop/db")
    connections = answer.locator("tbody td.number").all_inner_texts()
    counts = [int(text.replace(",", "")) for text in connections]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > 0


def test_files_are_chosen_together_and_rejected_objects_are_named(page: Page, demo: str, tmp_path: Path) -> None:
    """Several files count as one change; `policies` also removes what they lack."""
    (tmp_path / "db.yaml").write_text(CUTS)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    page.goto(f"{demo}/#/what-if")
    page.locator("input[type=file]").set_input_files([tmp_path / "db.yaml", tmp_path / "broken.yaml"])
    expect(page.get_by_label("Manifests: paste")).to_have_value(f"{CUTS.rstrip()}\n---\n{BROKEN.rstrip()}")
    page.get_by_label("all policies of their namespaces").check()
    page.get_by_role("button", name=SHOW).click()
    expect(page.get_by_role("alert")).to_contain_text("NetworkPolicy shop/broken: spec.ingress[0].ports[0].endPort")
    expect(page.get_by_role("heading", name="Would be allowed")).to_be_visible()


def test_text_that_is_no_manifest_is_told(page: Page, demo: str) -> None:
    """An empty one is not even sent. Of one that cannot be read, the page does not say that it cuts nothing."""
    page.goto(f"{demo}/#/what-if")
    page.get_by_role("button", name=SHOW).click()
    expect(page.get_by_role("alert")).to_contain_text("Paste or choose a manifest first")
    page.get_by_label("Manifests: paste").fill("kind: [")
    page.get_by_role("button", name=SHOW).click()
    expect(page.get_by_role("alert")).to_contain_text("document 1: line 2")
    expect(page.locator(".verdict-line")).to_contain_text("Of what can be used")
