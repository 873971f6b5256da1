"""The page Map, in a browser."""

import json
import re

from playwright.sync_api import Locator, Page, expect

PIXEL_OF_LINE = """
(name) => {
    const color = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const wanted = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const found = [];
    for (const canvas of document.querySelectorAll('.canvas canvas')) {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        for (let at = 0; at < data.length; at += 4) {
            if (wanted.every((value, index) => data[at + index] === value)) {
                found.push([(at / 4) % canvas.width, Math.floor(at / 4 / canvas.width)]);
            }
        }
    }
    return found.length === 0 ? null : found[Math.floor(found.length / 2)];
}
"""
"""The place of a pixel in the middle of a line with the colour of a custom property; null as long as there is none."""


def rows(page: Page) -> Locator:
    """The buttons of the table beside the map, one for each edge."""
    return page.get_by_role("region", name="Connections of the map").locator("tbody button")


def places(page: Page) -> dict[str, list[int]]:
    """Where workloads are."""
    found = json.loads(page.evaluate("sessionStorage.getItem('netpolq.positions') ?? '[]'"))
    return {name: [x, y] for name, x, y in found}


def is_drawn(page: Page) -> bool:
    """Whether a canvas of the map has a pixel that is not empty."""
    return bool(
        page.evaluate(
            """[...document.querySelectorAll('.canvas canvas')].some((canvas) =>
                canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value !== 0))"""
        )
    )


def test_the_map_is_drawn_and_listed(page: Page, demo: str) -> None:
    """Denied connections come first in the table."""
    page.goto(f"{demo}/#/map")
    expect(rows(page).first).to_be_visible()
    page.wait_for_function("() => sessionStorage.getItem('netpolq.positions') !== null")
    page.wait_for_function("() => document.querySelector('.canvas canvas') !== null")
    assert is_drawn(page)
    expect(page.locator(".edge-table tbody tr").first).to_contain_text("denied")
    assert "shop/db" in places(page)


def test_the_table_works_with_keys_alone(page: Page, demo: str) -> None:
    """Tab reaches the table, arrow keys move in it, Enter opens an edge, Escape closes it and comes back to its row."""
    page.goto(f"{demo}/#/map")
    expect(rows(page).nth(2)).to_be_visible()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.edge-table tbody') !== null"):
            break
    else:
        raise AssertionError("Tab did not reach the table")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    name = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    details = page.get_by_role("region", name="Details")
    expect(details.get_by_role("heading", level=2)).to_be_focused()
    source = name.partition(" → ")[0]
    expect(details).to_contain_text(source)
    expect(details.get_by_role("link", name="Explain this connection")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".edge-table tbody button:focus")).to_have_text(name)


def test_the_details_of_an_edge_lead_to_its_flows_and_their_explanation(page: Page, demo: str) -> None:
    """The panel shows ports, reasons and flows of the edge alone."""
    page.goto(f"{demo}/#/map?edge=payments/ledger|payments/db|deny")
    details = page.get_by_role("region", name="Details")
    expect(details).to_contain_text("ingress isolated by payments/db")
    expect(details.locator("tbody").first).to_contain_text("TCP 5432")
    details.get_by_role("link", name="Explain this connection").click()
    expect(page.locator(".answer")).to_contain_text("denied")
    page.go_back()
    details.get_by_role("link", name="Show its flows").click()
    expect(page).to_have_url(re.compile("#/flows.*source=payments%2Fledger.*destination=payments%2Fdb"))
    expect(page.locator(".flow-table tbody tr").first).to_contain_text("payments/ledger-")


def test_places_stay_when_filters_change_and_after_a_reload(page: Page, demo: str) -> None:
    """Only the button moves workloads."""
    page.goto(f"{demo}/#/map")
    expect(rows(page).first).to_be_visible()
    page.wait_for_function("() => sessionStorage.getItem('netpolq.positions') !== null")
    before = places(page)
    page.get_by_role("checkbox", name="denied", exact=True).check(force=True)
    expect(page).to_have_url(re.compile("verdict=deny"))
    expect(page.locator(".edge-table tbody tr", has_text="allowed")).to_have_count(0)
    page.reload()
    expect(rows(page).first).to_be_visible()
    expect(page.get_by_role("checkbox", name="denied", exact=True)).to_be_checked()
    after = places(page)
    assert {name: after.get(name) for name in before} == before


def test_the_details_of_a_workload_lead_to_its_edges(page: Page, demo: str) -> None:
    """The panel lists the connections from and to it."""
    page.goto(f"{demo}/#/map?node=shop/db")
    details = page.get_by_role("region", name="Details")
    expect(details.get_by_role("heading", level=2)).to_have_text("shop/db")
    expect(details.get_by_role("link", name="Show flows to it")).to_be_visible()
    details.get_by_role("button", name="from shop/api").click()
    expect(page).to_have_url(re.compile("edge=shop%2Fapi%7Cshop%2Fdb%7Cdeny"))


def test_a_click_on_a_line_opens_its_edge_and_one_beside_closes_it(page: Page, demo: str) -> None:
    """The line is found by its colour in the drawing."""
    page.goto(f"{demo}/#/map?since=3600&verdict=would-deny")
    expect(rows(page)).to_have_count(1)
    page.wait_for_function("() => document.querySelector('.canvas canvas') !== null")
    line = page.wait_for_function(PIXEL_OF_LINE, arg="--line-would-deny", polling=200).json_value()
    box = page.locator(".canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + line[0], box["y"] + line[1])
    details = page.get_by_role("region", name="Details")
    expect(details).to_contain_text("would be denied")
    page.mouse.click(box["x"] + 4, box["y"] + box["height"] - 4)
    expect(details).to_have_count(0)
