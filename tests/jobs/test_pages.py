"""The pages that people open, in a real browser: no errors, no requests, fit for a phone, and for everybody.

Needs the extra `browser` (Playwright and axe) and a Chromium: `playwright install chromium`, or its path in CHROMIUM.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.jobs.check import check
from graft.jobs.fit import fit

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'graft-vision[browser]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: the extra `browser`")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(
                f"needs a Chromium: playwright install chromium, or its path in CHROMIUM ({error.message[:80]})"
            )
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with mistakes in it, and the gallery of a check that has found something."""
    root = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    for name, shade in (("cat", 90), ("dog", 90), ("bird", 220)):
        (root / "hard" / name).mkdir(parents=True)
        for number in range(30):
            noise = rng.normal(shade, 25, (40, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / "hard" / name / f"{number:02d}.png")
    fit(root / "hard", root / "model", strategy="probe:head=ridge,layers=last")
    odd = shutil.copytree(photos, root / "odd")
    shutil.copy(odd / "disc" / "00.png", odd / "frame" / "copy.png")
    (odd / "disc" / "bad.jpg").write_bytes(b"no picture")
    check(odd).write(root / "check.html")
    return {"report": root / "model" / "report.html", "check": root / "check.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["report", "check"])
def test_a_page_opens_for_everybody(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    violations = axe.Axe().run(page).response["violations"]
    assert [(each["id"], each["impact"]) for each in violations if each["impact"] in ("serious", "critical")] == []
    assert said == []
    context.close()


def test_a_number_of_the_matrix_shows_its_pictures_and_the_sliders_count(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["report"].as_uri())  # with its own policy in force
    button = page.query_selector("td.miss button")
    wanted = int(button.inner_text())
    button.click()
    assert len(page.query_selector_all("#pictures img")) == min(wanted, 12)
    assert button.get_attribute("aria-pressed") == "true"
    sure, right = page.evaluate("[facts.sure, facts.right]")
    page.fill("#least", "60")
    kept = [good for chance, good in zip(sure, right, strict=True) if chance >= 0.6]
    told = page.inner_text("#told")
    assert f"{100 * len(kept) / len(sure):.1f}% of the pictures" in told
    assert f"{100 * sum(kept) / len(kept):.1f}% of these answers" in told
    page.select_option("#class", "bird")
    page.fill("#threshold", "50")
    chances, truth = page.evaluate(
        "[facts.chances[facts.classes.indexOf('bird')], facts.truth[facts.classes.indexOf('bird')]]"
    )
    said = [row for row, chance in enumerate(chances) if chance >= 127.5]
    assert f"of its {len(said)} answers" in page.inner_text("#class-told")
    assert f"the {len(truth)} pictures of bird" in page.inner_text("#class-told")
    page.close()
