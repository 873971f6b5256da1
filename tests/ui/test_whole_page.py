"""What holds for all pages, in a browser: accessibility, small screens, missing agents, tokens, a server that comes back."""

import json
import re

from pathlib import Path

import pytest

from playwright.sync_api import Page, Route, expect

from tests.ui.conftest import CHECKOUT, MakePage, newest_flow, see_two_changes, serving

AXE = CHECKOUT / "netpolq/ui/web/node_modules/axe-core/axe.min.js"
PAGES = {
    "map": ".edge-table tbody tr",
    "map?edge=payments/ledger|payments/db|deny": ".details .facts",
    "flows": ".flow-table tbody tr",
    "policies?policy=NetworkPolicy/shop/api": ".rules tbody tr",
    "explain?source=shop/db-0&destination=shop/db-1&protocol=TCP&port=5432": ".answer",
    "what-if": ".what-if",
    "nodes": ".card canvas",
}
"""Addresses, and what is there once the page is shown."""

OVERLAPS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def shown(page: Page, url: str, address: str) -> None:
    page.goto(f"{url}/#/{address}")
    expect(page.locator(PAGES[address]).first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", PAGES)
def test_axe_finds_nothing_serious(new_page: MakePage, demo: str, address: str, scheme: str) -> None:
    """Also that colours have contrast."""
    page = new_page(scheme=scheme)
    shown(page, demo, address)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [
        f"{one['id']}: {json.dumps([node['html'] for node in one['nodes'][:3]])}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
    assert serious == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", PAGES)
def test_a_narrow_page_does_not_scroll_sideways(new_page: MakePage, demo: str, address: str, scheme: str) -> None:
    """Tables scroll in their boxes."""
    page = new_page(width=400, height=800, scheme=scheme)
    shown(page, demo, address)
    assert not page.evaluate(OVERLAPS)


def test_pages_are_reached_with_keys(page: Page, demo: str) -> None:
    """The first Tab offers to skip the navigation; the present page is marked."""
    page.goto(demo)
    expect(page.locator(".edge-table tbody tr").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    page.get_by_role("link", name="Nodes").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Nodes")).to_have_attribute("aria-current", "page")
    expect(page.locator(".card")).to_have_count(3)
    expect(page).to_have_title("Nodes · netpolq")


def test_a_demonstration_says_so(page: Page, demo: str) -> None:
    """On every page."""
    for address in PAGES:
        shown(page, demo, address)
        expect(page.locator(".status-line")).to_contain_text("Demonstration")


def test_a_missing_agent_is_named_with_its_reason(page: Page, tmp_path: Path) -> None:
    """On every page, in the line at the top. Where nothing is known, the page says what to do."""
    with serving("--agent", str(tmp_path / "status.sock")) as url:
        for address in ("map", "flows", "policies", "explain", "what-if", "nodes"):
            page.goto(f"{url}/#/{address}")
            missing = page.locator(".mark-missing")
            expect(missing).to_contain_text("missing")
            missing.locator("summary").click()
            expect(missing.locator("li")).to_contain_text("status.sock")
        page.goto(f"{url}/#/map")
        expect(page.locator(".empty")).to_contain_text("No connections in the last 5 minutes")
        page.get_by_role("button", name="Show the last hour").click()
        expect(page.locator(".empty")).to_contain_text("No connections in the last hour")
        page.goto("about:blank")  # a stream that ends with its server is an error of the console


def test_a_server_that_goes_away_is_told_and_found_again(new_page: MakePage, demo: str) -> None:
    """The page keeps what it shows meanwhile."""
    page = new_page(may_fail="Failed to load resource")
    shown(page, demo, "flows")
    page.route("**/api/stream/**", lambda route: route.abort())
    page.get_by_label("Period").select_option("last hour")
    expect(page.get_by_role("status")).to_contain_text("reconnecting")
    expect(page.locator(".flow-table tbody tr").first).to_be_visible()
    page.unroute("**/api/stream/**")
    expect(page.get_by_role("status")).to_contain_text("live")


def test_a_hidden_tab_reads_nothing(new_page: MakePage, demo: str) -> None:
    """It closes its stream, and opens it again when it is shown."""
    page, other = new_page(), new_page()
    shown(page, demo, "flows")
    expect(page.get_by_role("status")).to_contain_text("live")
    page.evaluate(
        """() => {
            Object.defineProperty(document, 'hidden', { value: true, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    newest = newest_flow(page)
    before = newest.get_attribute("datetime")
    see_two_changes(other, demo)
    assert newest.get_attribute("datetime") == before
    page.evaluate(
        """() => {
            Object.defineProperty(document, 'hidden', { value: false, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    expect(newest).not_to_have_attribute("datetime", before or "")


def test_a_token_is_asked_for_and_kept_in_the_tab_only(new_page: MakePage, demo: str) -> None:
    """A wrong one gets the sentence of the server. The right one is sent as a header, survives a reload, and is in no address."""
    page = new_page(may_fail="401 (Unauthorized)")
    addresses: list[str] = []

    def guard(route: Route) -> None:
        addresses.append(route.request.url)
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            body = json.dumps({"error": "The token is wrong; give the one of --token-file."})
            route.fulfill(status=401, content_type="application/json", body=body)

    page.route("**/api/**", guard)
    page.clock.install()
    page.goto(demo)
    page.get_by_label("Token").fill("not a token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("without spaces")
    page.clock.run_for(60_000)
    page.evaluate("async () => { await fetch('/api/last'); }")  # requests before it have come to the guard
    paths = [address.removeprefix(demo) for address in addresses]
    assert paths == ["/api/session", "/api/last"], "a page without a token asks once: the server allows few wrong attempts"
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Show the page").click()
    expect(page.get_by_role("alert")).to_contain_text("The token is wrong")
    page.get_by_label("Token").fill("right")
    page.keyboard.press("Enter")
    expect(page.locator(".edge-table tbody tr").first).to_be_visible()
    page.reload()
    expect(page.locator(".edge-table tbody tr").first).to_be_visible()
    assert not [address for address in addresses if re.search("right|wrong", address)]
    assert page.evaluate("Object.values(localStorage).length === 0 && document.cookie === ''")


def test_the_bundled_licences_are_served(page: Page, demo: str) -> None:
    """Of each package in the bundle."""
    answer = page.request.get(f"{demo}/licenses.txt")
    assert answer.ok
    for name in ("preact", "cytoscape", "uplot"):
        assert f"{name} " in answer.text()
