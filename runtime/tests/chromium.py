"""A real browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def started(*switches: str) -> Iterator[Any]:
    """Chromium through Playwright, the extra `browser`: one that Playwright installed, or that of the machine."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'graft-vision[browser]'")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *switches])
        except api.Error as error:
            why = "needs a Chromium: playwright install chromium, or its path in CHROMIUM"
            pytest.skip(f"{why} ({error.message[:80]})")
        yield found
        found.close()
