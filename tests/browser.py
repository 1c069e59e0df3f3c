"""Chromium for tests, and what every page must hold there: it is quiet, and stays at home."""

import contextlib
import shutil
import urllib.parse

import pytest
from playwright import sync_api

# A camera that shows a moving test picture, given without a question; no name is ever resolved.
ARGS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_PATIENCE = 30_000  # milliseconds until what is waited for must be there, on a machine at work


@contextlib.contextmanager
def chromium():
    """Starts Chromium without a window. It is never passed over: without it a test fails."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("no chromium, which browser tests need: apt-get install chromium", False)
    with (
        sync_api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=ARGS) as browser,
    ):
        sync_api.expect.set_options(timeout=_PATIENCE)
        yield browser


@contextlib.contextmanager
def visit(browser, url, failures=(), **how):
    """Opens a page in a fresh profile; at the end nothing was logged but what `failures` are in,
    and nothing asked of another address. `how` is what `new_context` takes."""
    home, log, strangers = urllib.parse.urlsplit(url).netloc, [], []

    def look(request):
        parts = urllib.parse.urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != home:
            strangers.append(request.url)

    with browser.new_context(**how) as context:
        page = context.new_page()
        page.set_default_timeout(_PATIENCE)
        page.on("console", lambda message: log.append(message.text))
        page.on("pageerror", lambda error: log.append(str(error)))
        page.on("request", look)
        page.goto(url)
        yield page
    loud = [line for line in log if not any(each in line for each in failures)]
    assert loud == [], loud
    assert strangers == []
