"""Writes the pictures of the documentation: `python -m tests.ui.screenshots`. It needs the built page (`make ui`) and Chromium."""

from playwright.sync_api import Page, expect, sync_playwright

from tests.ui.conftest import CHECKOUT, CHROMIUM, serving
from tests.ui.test_what_if import CUTS, SHOW

_FOLDER = CHECKOUT / "docs/images"
_SIZE = (1280, 760)
_LIMIT_MS = 20_000


def main() -> None:
    """Write a picture of each page of the demonstration."""
    _FOLDER.mkdir(exist_ok=True)
    with serving("--demo") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _SIZE[0], "height": _SIZE[1]}, reduced_motion="reduce")
        page.set_default_timeout(_LIMIT_MS)
        page.goto(f"{url}/#/map")
        expect(page.locator(".edge-table tbody tr").first).to_be_visible()
        page.wait_for_function("() => sessionStorage.getItem('netpolq.positions') !== null")
        _write(page, "map")
        page.goto(f"{url}/#/flows")
        expect(page.locator(".flow-table tbody tr").nth(10)).to_be_visible()
        _write(page, "flows")
        page.goto(f"{url}/#/policies")
        expect(page.get_by_text("shop/default-deny").first).to_be_visible()
        _write(page, "policies")
        page.goto(f"{url}/#/explain?source=shop/db-0&destination=payments/db-0&protocol=TCP&port=5432")
        expect(page.locator(".answer")).to_be_visible()
        _write(page, "explain")
        page.goto(f"{url}/#/what-if")
        page.get_by_label("Manifests: paste").fill(CUTS)
        page.get_by_role("button", name=SHOW).click()
        expect(page.locator(".verdict-line")).to_be_visible()
        _write(page, "what-if")
        page.goto(f"{url}/#/nodes")
        expect(page.locator("canvas").nth(8)).to_be_visible()
        _write(page, "nodes")
        browser.close()


def _write(page: Page, name: str) -> None:
    page.screenshot(path=_FOLDER / f"ui-{name}.png")


if __name__ == "__main__":
    main()
