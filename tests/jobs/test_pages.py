"""The pages that people open, in a real browser: no errors, no requests, fit for a phone, and for everybody.

Needs the extra `browser` (Playwright and axe) and a Chromium: `playwright install chromium`, or its path in CHROMIUM.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from PIL import Image

from graft.jobs.check.check import check
from graft.jobs.fit import fit

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: the extra `browser`")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started() as found:
        yield found


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
    (odd / "disc" / "bad.jpg").write_bytes(b"no image")
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


def test_what_is_wider_than_a_phone_scrolls_in_its_own_box_and_says_so(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(pages["report"].as_uri())
    page.evaluate("document.querySelectorAll('.scroll table').forEach((each) => (each.style.minWidth = '700px'))")
    page.evaluate("dispatchEvent(new Event('resize'))")
    for box, word in zip(page.locator(".scroll").all(), page.locator(".more").all(), strict=True):
        assert word.is_visible()
        assert word.inner_text() == "more to the right →"
        box.evaluate("(box) => { box.scrollLeft = 60; box.dispatchEvent(new Event('scroll')); }")
        assert word.inner_text() == "← more to the left and right →"
        box.evaluate("(box) => { box.scrollLeft = 9999; box.dispatchEvent(new Event('scroll')); }")
        assert word.inner_text() == "← more to the left"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1200, "height": 900})
    assert not any(word.is_visible() for word in page.locator(".more").all())
    page.close()


def test_a_number_of_the_matrix_shows_its_images_and_the_sliders_count(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["report"].as_uri())  # with its own policy in force
    button = page.query_selector("td.miss button")
    wanted = int(button.inner_text())
    button.click()
    assert len(page.query_selector_all("#images img")) == min(wanted, 12)
    assert button.get_attribute("aria-pressed") == "true"
    sure, right = page.evaluate("[facts.sure, facts.right]")
    page.fill("#least", "60")
    kept = [good for chance, good in zip(sure, right, strict=True) if chance >= 0.6]
    told = page.inner_text("#told")
    assert f"{100 * len(kept) / len(sure):.1f}% of the images" in told
    assert f"{100 * sum(kept) / len(kept):.1f}% of these answers" in told
    page.select_option("#class", "bird")
    page.fill("#threshold", "50")
    chances, truth = page.evaluate(
        "[facts.chances[facts.classes.indexOf('bird')], facts.truth[facts.classes.indexOf('bird')]]"
    )
    said = [row for row, chance in enumerate(chances) if chance >= 127.5]
    assert f"of its {len(said)} answers" in page.inner_text("#class-told")
    assert f"the {len(truth)} images of bird" in page.inner_text("#class-told")
    page.close()


@pytest.fixture(scope="module")
def served(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address with its token, folder of corrections) of a real `graft serve` that shows evidence."""
    root = tmp_path_factory.mktemp("served")
    fit(photos, root / "shapes", strategy="probe:head=ridge,layers=last", report=False)
    words = ["shapes", "--evidence", photos, "--corrections", "kept", "--token", "a-token-for-this-test", "--port", "0"]
    command = [sys.executable, "-m", "graft", "serve", *map(str, words), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1], root / "kept"
        process.terminate()


def test_the_page_of_a_real_server_answers_shows_evidence_and_keeps_corrections(
    browser: Any, served: tuple[str, Path], photos: Path
) -> None:
    url, kept = served
    context = browser.new_context(viewport={"width": 390, "height": 900})
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_function("location.hash === ''")  # the token is not left in the address
    disc = photos / "disc" / "00.png"
    page.set_input_files("input[type=file][multiple]", [str(disc), str(photos / "frame" / "00.png")])
    page.wait_for_selector("h3:has-text('frame')", timeout=30_000)
    first = page.locator("li:has-text('disc')").first
    shown = first.locator("img[src^='data:image/jpeg']")
    assert shown.count() == 5
    assert shown.first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 10
    first.locator("summary:has-text('Correct')").click()
    first.locator("form input").fill("a new class")
    first.locator("button:has-text('Store')").click()
    for _ in range(100):
        if found := [path for path in kept.rglob("*") if path.is_file()]:
            break
        time.sleep(0.1)
    assert [(path.parent.name, path.read_bytes()) for path in found] == [("a new class", disc.read_bytes())]
    assert said == []
    origin = url.partition("/#")[0]
    assert all(each.startswith((origin, "blob:", "data:")) for each in asked)
    context.close()
