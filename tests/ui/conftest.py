"""Fixtures of the tests of the page in a browser: Debian's Chromium, and `netpolq ui` as a program.

They need the built page (`make ui`) and Chromium; `make test-ui` provides both.
"""

import signal
import subprocess
import sys

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

CHECKOUT = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
_LIMIT_MS = 20_000

MakePage = Callable[..., Page]


def newest_flow(page: Page) -> Locator:
    """The time of the first row of the page Flows."""
    return page.locator(".flow-table tbody time").first


def see_two_changes(page: Page, url: str) -> None:
    """Follow flows until two changes have come, at least a second apart: another page that follows them has had one, too."""
    page.goto(f"{url}/#/flows")
    newest = newest_flow(page)
    for _ in range(2):
        expect(newest).to_be_visible()
        expect(newest).not_to_have_attribute("datetime", newest.get_attribute("datetime") or "")


@contextmanager
def serving(*flags: str) -> Iterator[str]:
    """The URL of a `netpolq ui` with these flags, without the slash at its end."""
    assert (CHECKOUT / "netpolq/ui/static/index.html").is_file(), "the page is not built: run `make ui`"
    argv = [sys.executable, "-m", "netpolq", "ui", "--listen", "127.0.0.1:0", *flags]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), f"netpolq ui did not start: {url!r}"
            yield url.rstrip("/")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)


# Scope: a browser that is driven without `await` keeps its event loop running in this thread, which later packages must not meet.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=_LIMIT_MS)
    with sync_playwright() as playwright:
        # --no-sandbox: Chromium does not start as root without it.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="package")
def demo() -> Iterator[str]:
    """The URL of the demonstration."""
    with serving("--demo") as url:
        yield url


@pytest.fixture
def new_page(browser: Browser) -> Iterator[MakePage]:
    """Opens pages, each with a storage of its own. What they write to the console as an error fails the test, such as a violation of the
    content security policy; so does an exception that they do not catch. `may_fail`: texts of console errors that the test causes.
    """
    contexts, errors, allowed = [], list[str](), list[str]()

    def make(*, width: int = 1440, height: int = 900, scheme: str = "light", may_fail: str = "") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        contexts.append(context)
        if may_fail:
            allowed.append(may_fail)
        page = context.new_page()
        page.set_default_timeout(_LIMIT_MS)
        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    def note(message: ConsoleMessage) -> None:
        # Tests read pixels, which Chromium may advise about.
        if message.type in {"error", "warning"} and "willReadFrequently" not in message.text:
            errors.append(message.text)

    yield make
    for context in contexts:
        context.close()
    assert [text for text in errors if not any(part in text for part in allowed)] == []


@pytest.fixture
def page(new_page: MakePage) -> Page:
    """A page of usual size."""
    return new_page()
