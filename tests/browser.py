"""Debian's Chromium, as a reader has it: pages, what stands in the console, and axe's judgement of accessibility."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import require

#: What a reader has, and what he carries in his pocket.
DESK: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
#: Milliseconds that a page may take to become what is waited for; the machine may be busy.
PATIENCE_MS = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where it is not installed, or fails with MEDD_REQUIRE_PEERS=1."""
    [program] = require("chromium")
    with sync_playwright() as playwright:
        # Root, in a container, has no sandbox.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield started
        finally:
            started.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.context = browser.new_context(base_url=url, **(DESK | options))
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        #: Errors of scripts, what the content security policy refused, and dialogs, which only a script opens.
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        # Answers of 4xx and 5xx are the server's; tests that expect them ask for it.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def open(self, path: str) -> Page:
        self.page.goto(path)
        return self.page

    def width(self) -> tuple[int, int]:
        """How wide the page is, and how wide the window."""
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        return wide, window

    def barriers(self, *rules: str) -> list[str]:
        """What axe finds serious or critical: which rule, and where; by these rules, or by all."""
        wanted = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else None
        found = Axe().run(self.page, options=wanted).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def pixel(self, x: float = 0.5, y: float = 0.5) -> tuple[int, int, int]:
        """A pixel of the viewer's canvas, by shares of its width and height."""
        script = """([x, y]) => { const c = document.getElementById("canvas");
            const p = c.getContext("2d").getImageData(Math.floor(c.width * x), Math.floor(c.height * y), 1, 1).data;
            return [p[0], p[1], p[2]]; }"""
        red, green, blue = self.page.evaluate(script, [x, y])
        return red, green, blue

    def picture(self) -> int:
        """A number for what the canvas shows: another one where any pixel is another."""
        script = """() => { const c = document.getElementById("canvas");
            const d = new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer);
            let h = 7; for (const v of d) h = (Math.imul(h, 31) + v) | 0; return h; }"""
        return int(self.page.evaluate(script))

    def settle(self) -> None:
        """Wait until what was asked of the canvas is drawn."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def close(self) -> None:
        self.context.close()


@contextmanager
def visiting(browser: Browser, url: str, *, faults: bool = False, **options: Any) -> Iterator[Visit]:
    """A visitor; at the end nothing may have gone wrong on his pages, unless `faults` are expected."""
    visit = Visit(browser, url, **options)
    try:
        yield visit
        assert faults or visit.faults == []
    finally:
        visit.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a module."""
    with chromium() as started:
        yield started
