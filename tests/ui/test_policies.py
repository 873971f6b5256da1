"""The page Policies, in a browser."""

from playwright.sync_api import Page, expect


def test_tiers_come_in_the_order_of_evaluation(page: Page, demo: str) -> None:
    """Each tier has a heading; unused rules, audit and problems are marked."""
    page.goto(f"{demo}/#/policies")
    expect(page.locator(".split-list h2")).to_contain_text(["1 · Admin tier", "2 · NetworkPolicies", "3 · Baseline tier"])
    expect(page.get_by_role("row", name="payments/db")).to_contain_text("problem")
    expect(page.get_by_role("row", name="batch/egress-only-inside")).to_contain_text("audit")
    expect(page.get_by_role("row", name="shop/api")).to_contain_text("1 unused rule")


def test_the_details_have_rules_with_hits_and_the_manifest(page: Page, demo: str) -> None:
    """The manifest is read when it is opened. Escape closes the details."""
    page.goto(f"{demo}/#/policies")
    page.get_by_role("button", name="shop/api").press("Enter")
    details = page.get_by_role("complementary", name="Details of the policy")
    expect(details.get_by_role("heading", name="shop/api")).to_be_focused()
    expect(details.locator(".rules .unused")).to_have_count(1)
    expect(details.locator(".rules tbody tr").first).to_contain_text("ingress[0]")
    details.get_by_text("Manifest (YAML)").click()
    expect(details.locator("pre")).to_contain_text("kind: NetworkPolicy")
    page.keyboard.press("Escape")
    expect(details).to_have_count(0)


def test_the_problem_of_an_unreadable_policy_is_told_in_whole(page: Page, demo: str) -> None:
    """Field, reason and what follows."""
    page.goto(f"{demo}/#/policies?policy=NetworkPolicy/payments/db")
    problem = page.get_by_role("complementary").get_by_role("alert")
    expect(problem).to_contain_text("spec.ingress[0].ports[0].endPort")
    expect(problem).to_contain_text("admits nothing")
