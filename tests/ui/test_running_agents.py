"""Every page in a browser, with a running agent and real connections; and the token of a real server."""

import re
import secrets
import signal

from collections.abc import Iterator
from pathlib import Path

import pytest

from playwright.sync_api import Locator, Page, expect

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from tests.process.conftest import assert_admitted, opened, written
from tests.process.test_flows_command import wait_for_flows
from tests.ui.conftest import MakePage, serving

CLOSED = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: app}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: []
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """A server that admits the friend, and not the stranger. Both have tried."""
    with opened() as box:
        yield box


@pytest.fixture(scope="module")
def agent(box: Box) -> Iterator[Agent]:
    with Agent(box, written(box), "--workers=1", "--fail-open=false", "--verdict-cache=off") as agent:
        assert_admitted(box, "friend")
        wait_for_flows(agent)
        yield agent


@pytest.fixture(scope="module")
def url(agent: Agent) -> Iterator[str]:
    with serving("--run-dir", str(agent.run_dir)) as url:
        yield url


def test_the_map_shows_who_is_denied_and_why(page: Page, url: str) -> None:
    page.goto(f"{url}/#/map")
    rows = page.get_by_role("region", name="Connections of the map").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("denied")
    rows.first.get_by_role("button").click()
    expect(page.get_by_text("ingress isolated by app/server").first).to_be_visible()


def test_flows_grow_while_the_page_is_open(page: Page, url: str, box: Box) -> None:
    page.goto(f"{url}/#/flows?source=app/stranger")
    count = page.locator(".flow-table tbody tr").first.locator("td.number").first
    before = number(count)
    assert before > 0
    assert_admitted(box, "friend")
    expect(count).not_to_have_text(f"{before:,}")
    assert number(count) > before


def number(cell: Locator) -> int:
    expect(cell).to_be_visible()
    return int(cell.inner_text().replace(",", ""))


def test_policies_tell_how_often_each_rule_decided(page: Page, url: str) -> None:
    page.goto(f"{url}/#/policies")
    page.get_by_role("button", name="app/server").click()
    expect(page.get_by_text(re.compile("from pods app=friend")).first).to_be_visible()


def test_a_denied_connection_is_explained(page: Page, url: str) -> None:
    page.goto(f"{url}/#/explain?source=app/stranger&destination=app/server&protocol=TCP&port=80")
    expect(page.locator(".answer")).to_contain_text("denied")
    expect(page.locator(".nearest")).to_contain_text("app/server")


def test_a_manifest_would_cut_what_was_seen(page: Page, url: str) -> None:
    page.goto(f"{url}/#/what-if")
    page.get_by_label("Manifests: paste").fill(CLOSED)
    page.get_by_role("button", name="Show what it changes").click()
    answer = page.get_by_role("region", name="What changes")
    expect(answer.locator(".verdict-line")).to_contain_text("would cut connections that were seen")
    expect(answer.locator("tbody tr").first).to_contain_text("app/friend")


def test_a_node_that_is_lost_is_named_and_found_again(page: Page, url: str, agent: Agent) -> None:
    page.goto(f"{url}/#/nodes")
    expect(page.get_by_text("ready", exact=False).first).to_be_visible()
    expect(page.get_by_text("1 agent, none missing")).to_be_visible()
    supervisor = agent.supervisor()
    assert supervisor is not None
    agent.kill(supervisor.pid, signal.SIGSTOP)
    try:
        expect(page.locator(".mark-missing")).to_contain_text("missing")
    finally:
        agent.kill(supervisor.pid, signal.SIGCONT)
    expect(page.get_by_text("1 agent, none missing")).to_be_visible()


def test_the_token_of_a_file_opens_the_page(new_page: MakePage, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token := secrets.token_hex(32))
    with serving("--demo", "--token-file", str(file)) as url:
        page = new_page(may_fail="401 (Unauthorized)")
        page.goto(url)
        page.get_by_label("Token").fill("x" * len(token))
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("token")
        expect(page.locator(".edge-table")).to_have_count(0)
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator(".edge-table tbody tr").first).to_be_visible()
        page.close()  # before the server ends, which it would tell as an error
