"""The page Flows, in a browser."""

import csv
import re

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.ui.conftest import MakePage, newest_flow, see_two_changes

HEADS = ".flow-table tbody tr:not(.opened)"
"""Rows of flows, without those of opened details."""


def test_flows_are_live_until_they_are_paused(new_page: MakePage, demo: str) -> None:
    """A paused table does not change while another page gets newer flows. It shows them when it goes on."""
    page, other = new_page(), new_page()
    page.goto(f"{demo}/#/flows")
    newest = newest_flow(page)
    expect(newest).to_be_visible()
    before = newest.get_attribute("datetime")
    expect(newest).not_to_have_attribute("datetime", before or "")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("paused")
    paused = page.locator(".flow-table tbody").inner_html()
    shown = newest.get_attribute("datetime")
    see_two_changes(other, demo)
    assert page.locator(".flow-table tbody").inner_html() == paused
    page.get_by_role("button", name="Resume").click()
    expect(newest).not_to_have_attribute("datetime", shown or "")
    expect(page.get_by_role("status")).to_contain_text("live")


def test_filters_are_in_the_address_and_survive_a_reload(page: Page, demo: str) -> None:
    """Filters limit the rows, and are the same after the page is loaded again."""
    page.goto(f"{demo}/#/flows")
    page.get_by_label("Period").select_option("last hour")
    page.get_by_role("checkbox", name="denied", exact=True).check(force=True)
    page.get_by_label("To workload").fill("shop/db")
    page.get_by_label("Port").fill("5432")
    expect(page).to_have_url(re.compile(r"#/flows\?since=3600&verdict=deny&destination=shop%2Fdb&port=5432"))
    expect(page.locator(HEADS, has_text="allowed")).to_have_count(0)
    expect(page.locator(HEADS).first).to_contain_text("shop/db-")
    page.reload()
    expect(page.get_by_label("Period")).to_have_value("3600")
    expect(page.get_by_role("checkbox", name="denied", exact=True)).to_be_checked()
    expect(page.get_by_label("To workload")).to_have_value("shop/db")
    expect(page.locator(HEADS, has_text="allowed")).to_have_count(0)
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(HEADS, has_text="allowed").first).to_be_visible()


def test_namespaces_are_chosen_with_keys(page: Page, demo: str) -> None:
    """The list opens with Enter, a namespace is chosen with Space, and Escape closes the list."""
    page.goto(f"{demo}/#/flows")
    expect(page.locator(HEADS).first).to_be_visible()
    summary = page.locator(".choice summary")
    summary.focus()
    page.keyboard.press("Enter")
    box = page.get_by_role("checkbox", name="payments")
    box.focus()
    page.keyboard.press("Space")
    expect(page).to_have_url(re.compile("namespace=payments"))
    page.keyboard.press("Escape")
    expect(summary).to_be_focused()
    expect(box).to_be_hidden()
    expect(page.locator(HEADS).filter(has_not_text="payments/")).to_have_count(0)


def test_a_row_opens_its_details(page: Page, demo: str) -> None:
    """Labels, decisions and what policies in audit would do."""
    page.goto(f"{demo}/#/flows?since=3600&verdict=would-deny")
    row = page.locator(HEADS).first.get_by_role("button")
    row.press("Enter")
    expect(row).to_have_attribute("aria-expanded", "true")
    opened = page.locator(".opened")
    expect(opened).to_contain_text("app=")
    expect(opened).to_contain_text("in audit: egress isolated by batch/egress-only-inside")
    row.press("Enter")
    expect(opened).to_have_count(0)


def test_the_csv_file_has_the_filtered_flows(page: Page, demo: str, tmp_path: Path) -> None:
    """The file has a line for each flow that matches, and no others."""
    page.goto(f"{demo}/#/flows?since=3600&verdict=deny")
    expect(page.locator(HEADS).first).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save as CSV").click()
    file = tmp_path / "flows.csv"
    waiting.value.save_as(file)
    lines = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    assert lines
    assert {line["verdict"] for line in lines} == {"deny"}
