"""The page Explain, in a browser."""

import re

from playwright.sync_api import Page, expect

from tests.ui.conftest import MakePage


def test_a_connection_is_explained_with_keys_alone(page: Page, demo: str) -> None:
    """Both pickers are filled from their lists with arrow keys and Enter; the deciding step is marked."""
    page.goto(f"{demo}/#/explain")
    source = page.get_by_role("combobox", name="From", exact=True)
    source.focus()
    page.keyboard.type("importer")
    expect(source).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[role=option][aria-selected=true]")).to_contain_text("batch/importer-")
    page.keyboard.press("Enter")
    expect(source).to_have_value(re.compile("batch/importer-"))
    page.keyboard.press("Tab")
    destination = page.get_by_role("combobox", name="To", exact=True)
    expect(destination).to_be_focused()
    page.keyboard.type("shop/db-0")
    expect(destination).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("5432")
    page.keyboard.press("Enter")
    answer = page.locator(".answer")
    expect(answer).to_contain_text("denied")
    ingress = answer.get_by_role("region", name="Ingress: may the destination receive it?")
    expect(ingress.locator(".step-deciding")).to_contain_text("NetworkPolicies")
    expect(ingress.locator(".nearest")).to_contain_text("shop/db")
    expect(ingress).to_contain_text("Smallest addition")
    expect(page).to_have_url(re.compile("#/explain.*destination=shop%2Fdb-0.*port=5432"))


def test_the_question_is_in_the_address(page: Page, demo: str) -> None:
    """A link to a question shows its answer, also in the text form."""
    page.goto(f"{demo}/#/explain?source=shop/db-0&destination=192.0.2.1&protocol=UDP&port=53")
    expect(page.get_by_label("Protocol")).to_have_value("UDP")
    expect(page.locator(".answer")).to_contain_text("192.0.2.1")
    page.get_by_text("As text, as netpolq explain prints it").click()
    expect(page.locator(".more pre")).to_contain_text("verdict")


def test_a_service_has_an_answer_for_each_endpoint(page: Page, demo: str) -> None:
    """The summary counts them."""
    page.goto(f"{demo}/#/explain?source=shop/db-0&destination=service/shop/db&protocol=TCP&port=5432")
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".verdict-line")).to_contain_text("of 2 allowed")


def test_an_end_that_does_not_exist_is_told(new_page: MakePage, demo: str) -> None:
    """The sentence of the server is shown, and no old answer."""
    page = new_page(may_fail="400 (Bad Request)")
    page.goto(f"{demo}/#/explain?source=shop/nothing&destination=shop/db-0&port=5432")
    expect(page.get_by_role("alert")).to_contain_text("shop/nothing does not exist")
    expect(page.locator(".answer")).to_have_count(0)
