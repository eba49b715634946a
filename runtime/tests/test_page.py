"""The page in a real browser: what a person does with it, and what it shows.

Needs the extra `browser` (Playwright and axe) and a Chromium: `playwright install chromium`, or its path in CHROMIUM.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from exported import image
from PIL import Image
from standin import PAGE, SIZE, Standin, serving

from graft_runtime import table
from graft_runtime.prediction import Prediction

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: the extra `browser`")

pytestmark = pytest.mark.slow

CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
RED, GREEN, BLUE = (image(colour, SIZE) for colour in ((150, 10, 10), (10, 150, 10), (10, 10, 150)))
BRIGHT = image((250, 250, 255), SIZE)
DROP = """([name, files]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  for (const [name, text] of files) transfer.items.add(new File([bytes(text)], name));
  const [Kind, key] = name === "drop" ? [DragEvent, "dataTransfer"] : [ClipboardEvent, "clipboardData"];
  document.body.dispatchEvent(new Kind(name, { bubbles: true, cancelable: true, [key]: transfer }));
}"""

LOADS = """(url) => new Promise((resolve) => {
  const image = new Image();
  Object.assign(image, { onload: () => resolve(true), onerror: () => resolve(false), src: url });
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started(*CAMERA) as found:
        yield found


class Visit:
    """The page, opened; on leaving nothing may have been said on the console nor asked of anybody else."""

    def __init__(self, browser: Any, server: Standin, **context: Any) -> None:
        self.server, self.said, self.asked = server, list[str](), list[str]()
        self.excused = ["willReadFrequently"]  # of canvases that these tests look at
        self.context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | context))
        self.page = self.context.new_page()
        self.page.set_default_timeout(8000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, wait: bool = True) -> Any:
        self.page.goto(self.server.url)
        if wait:
            self.page.locator("#about").wait_for()
        return self.page

    def give(self, files: dict[str, bytes], count: int | None = None) -> Any:
        """Choose files and wait until all that are listed have an answer."""
        kinds = [{"name": name, "mimeType": "", "buffer": content} for name, content in files.items()]
        self.page.set_input_files("#files", kinds)
        return self.judged(len(files) if count is None else count)

    def judged(self, count: int) -> Any:
        cards = self.page.locator("#list > li[data-state=done]")
        cards.nth(count - 1).wait_for(timeout=60_000)
        self.page.locator("#progress").wait_for(state="hidden")
        assert cards.count() == count
        return cards

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert [text for text in self.said if not any(each in text for each in self.excused)] == []
            strange = [url for url in self.asked if not url.startswith((self.server.url, "blob:", "data:"))]
            assert strange == []


@pytest.fixture
def server() -> Iterator[Standin]:
    with serving() as found:
        yield found


@pytest.fixture
def visit(browser: Any, server: Standin) -> Iterator[Visit]:
    with Visit(browser, server) as found:
        found.open()
        yield found


def base64s(files: dict[str, bytes]) -> list[list[str]]:
    return [[name, base64.b64encode(content).decode()] for name, content in files.items()]


# --- images come in -------------------------------------------------------------------------------------------------


def test_a_chosen_image_gets_its_answer(visit: Visit) -> None:
    card = visit.give({"a.png": RED}).first
    assert card.locator("h3").inner_text() == "red, 88.2%"  # 150 of 170
    assert card.locator(".bars .label").all_inner_texts() == ["red", "green", "blue"]
    assert card.locator(".bars .chance").all_inner_texts() == ["88.2%", "5.9%", "5.9%"]
    width = card.locator(".value").first.evaluate("bar => bar.style.width")
    assert float(width.rstrip("%")) == pytest.approx(100 * 150 / 170, abs=0.01)
    assert card.locator(".file").inner_text() == "a.png"
    assert visit.page.locator("#status").inner_text() == "a.png: red, 88.2%"  # what a screen reader says


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_may_be_dropped_and_pasted_anywhere(visit: Visit, way: str) -> None:
    visit.page.evaluate(DROP, [way, base64s({"g.png": GREEN, "b.png": BLUE})])
    assert visit.judged(2).locator("h3").all_inner_texts() == ["green, 88.2%", "blue, 88.2%"]


def test_one_that_cannot_be_read_keeps_no_other_from_its_answer(visit: Visit) -> None:
    cards = visit.give({"a.png": RED, "b.jpg": b"no image", "c.png": BLUE, "d.png": b""})
    assert cards.nth(1).locator(".fault").inner_text() == "This is no image that can be read."
    assert cards.nth(3).locator(".fault").inner_text() == "The file is empty."
    assert [cards.nth(at).locator("h3").inner_text() for at in (0, 2)] == ["red, 88.2%", "blue, 88.2%"]
    assert visit.server.asked == [3]  # the empty one was never sent
    assert visit.page.locator("#status").inner_text() == "2 images judged. 2 could not be judged."


def test_a_single_image_that_cannot_be_read_is_told(visit: Visit) -> None:
    visit.excused.append("422")
    card = visit.give({"b.jpg": b"no image"}).first
    assert card.locator(".fault").inner_text() == "This is no image that can be read."
    assert card.locator("button").count() == 0  # nothing to try again


def test_an_image_from_the_camera(visit: Visit) -> None:
    visit.page.click("#camera")
    visit.page.click("#take:not([disabled])")
    card = visit.judged(1).first
    assert card.locator(".file").inner_text() == "camera-1.jpg"
    assert visit.page.evaluate("document.querySelector('#video').srcObject") is None  # the camera is off


def test_a_camera_that_may_not_be_used_is_told(visit: Visit) -> None:
    no = "async () => { throw new DOMException('no', 'NotAllowedError'); }"
    refuse = f"() => {{ navigator.mediaDevices.getUserMedia = {no}; }}"
    visit.page.evaluate(refuse)
    visit.page.click("#camera")
    assert "may not be used" in visit.page.locator("#video-fault").inner_text()
    assert visit.page.locator("#take").is_disabled()


def test_newer_images_come_first_and_the_list_can_be_cleared(visit: Visit) -> None:
    visit.give({"a.png": RED, "b.png": BLUE})
    visit.give({"c.png": GREEN}, 3)
    assert visit.page.locator("#list .file").all_inner_texts() == ["c.png", "a.png", "b.png"]
    urls = visit.page.locator("#list img").evaluate_all("images => images.map((each) => each.src)")
    assert all(visit.page.evaluate(LOADS, url) for url in urls)
    visit.page.click("#clear")
    assert not visit.page.locator("#answers").is_visible()
    assert visit.page.evaluate("document.activeElement.id") == "files"
    visit.excused.append("ERR_FILE_NOT_FOUND")
    assert len(urls) == 3
    assert not any(visit.page.evaluate(LOADS, url) for url in urls)  # the thumbnails' memory is given back


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_an_unknown_image_is_told_with_the_nearest_training_images(visit: Visit) -> None:
    card = visit.give({"u.png": BRIGHT}).first
    assert card.locator("h3").inner_text() == "(unknown)"
    assert "unlike all that the model was trained on. The nearest class would be blue." in card.inner_text()
    assert card.locator(".nearest img").evaluate_all("all => all.map((each) => each.naturalWidth)") == [60]
    assert card.locator(".nearest li").nth(1).inner_text().split("\n") == ["blue/<i>2</i>.jpg", "blue", "40% similar"]
    assert card.locator("i").count() == 0  # a name is never markup


def test_the_heat_map_lies_over_its_part_of_the_image(visit: Visit) -> None:
    card = visit.give({"a.png": RED}).first
    layer = card.locator("canvas")
    assert not layer.is_visible()
    visit.page.check("#heat")
    image, heat = card.locator("img").first.bounding_box(), layer.bounding_box()
    assert heat["x"] - image["x"] == pytest.approx(0.25 * image["width"], abs=1)
    assert heat["width"] == pytest.approx(0.5 * image["width"], abs=1)
    assert heat["height"] == pytest.approx(image["height"], abs=1)
    look = """(canvas, [x, y]) => {
      const { data } = canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1);
      return [...data];
    }"""
    hot, cold, against = (layer.evaluate(look, place) for place in ([0.05, 0.05], [0.95, 0.95], [0.5, 0.5]))
    assert hot[0] > 240
    assert hot[3] > 140  # yellow
    assert cold[3] > 170
    assert max(cold[:3]) < 40  # a dark veil
    assert against[3] > 120
    assert max(against[:3]) < 40  # what speaks against the class is dark too
    visit.page.uncheck("#heat")
    assert not layer.is_visible()


def test_an_image_is_shown_upright(visit: Visit) -> None:
    pixels, file = np.zeros((40, 80, 3), np.uint8), io.BytesIO()
    pixels[:, :40] = (200, 0, 0)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    card = visit.give({"turned.jpg": file.getvalue()}).first
    box = card.locator("img").bounding_box()
    assert box["height"] == pytest.approx(2 * box["width"], abs=2)
    look = """image => {
      const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      context.drawImage(image, 0, 0);
      return [...context.getImageData(20, 10, 1, 1).data, ...context.getImageData(20, 70, 1, 1).data];
    }"""
    top, bottom = np.split(np.array(card.locator("img").evaluate(look)), 2)
    assert top[0] > 180
    assert bottom[0] < 20


def test_all_labels_that_are_given_are_marked(browser: Any) -> None:
    several = {"task": "multilabel", "thresholds": (0.3, 0.3, 0.5), "sets": ()}
    with serving(card=several) as server, Visit(browser, server) as visit:
        visit.open()
        card = visit.give({"a.png": image((90, 80, 30), SIZE)}).first
        assert card.locator("h3").inner_text() == "red, green"
        assert card.locator("li.given .label").all_inner_texts() == ["red", "green"]
        assert card.locator(".limit").evaluate_all("all => all.map((each) => each.style.left)") == ["30%", "30%", "50%"]


def test_a_name_of_a_class_is_text(browser: Any) -> None:
    evil = "<img src=x onerror=console.log(1)>"
    with serving(card={"classes": (evil, "green", "blue")}, name="<b>x</b>") as server, Visit(browser, server) as visit:
        visit.open()
        card = visit.give({"<u>a.png": RED, "u.png": BRIGHT}).first
        assert card.locator("h3").inner_text() == f"{evil}, 88.2%"
        assert card.locator(".file").inner_text() == "<u>a.png"
        assert visit.page.locator("h1").inner_text() == "<b>x</b>"
        assert visit.page.locator("[onerror], h1 b, .file u").count() == 0


def test_the_downloaded_table_is_that_of_the_runtime(visit: Visit) -> None:
    files = {"=cmd.png": RED, 'a "b", c.png': GREEN, "u.png": BRIGHT, "bad.png": b"no image"}
    visit.give(files)
    with visit.page.expect_download() as found:
        visit.page.click("#download")
    text = Path(found.value.path()).read_bytes().decode("utf-8-sig")
    predictor = visit.server.predictor
    named = [
        Prediction(name, each.answer, each.fault)
        for name, each in zip(files, predictor.predict(list(files.values())), strict=True)
    ]
    heading = [name for name, _ in table.build_columns(predictor.classes, table.PredictOptions())]
    rows = [heading, *(table.build_row(each, predictor.classes, table.PredictOptions()) for each in named)]
    want = [[str(table.escape_formula(cell)) for cell in row] for row in rows]
    got = list(csv.reader(io.StringIO(text)))
    assert [row[:2] + row[3:5] for row in got] == [row[:2] + row[3:5] for row in want]
    assert [row[4] for row in got] == ["unknown", "false", "false", "true", ""]
    assert got[1][0] == "'=cmd.png"
    for own, other in zip(got[1:], want[1:], strict=True):
        pairs = zip(own[2:3] + own[5:], other[2:3] + other[5:], strict=True)
        assert all((a == b == "") or float(a) == float(b) for a, b in pairs)


# --- many images, busy and missing servers --------------------------------------------------------------------------


def test_many_images_go_in_small_groups_and_can_be_stopped(visit: Visit) -> None:
    files = {f"{number:03d}.png": RED for number in range(200)}
    visit.server.pause.clear()
    kinds = [{"name": name, "mimeType": "", "buffer": content} for name, content in files.items()]
    visit.page.set_input_files("#files", kinds)
    visit.page.locator("li[data-state=working]").first.wait_for()
    assert visit.page.locator("li[data-state=working]").count() == 4
    assert visit.page.locator("#progress-text").inner_text() == "0 of 200"
    visit.page.click("#stop")
    visit.page.locator("#progress").wait_for(state="hidden")
    assert visit.page.locator("li[data-state=stopped]").count() == 200
    visit.server.pause.set()
    visit.page.click("#again")
    visit.judged(200)
    assert set(visit.server.asked) == {4}
    assert visit.page.locator("#status").inner_text() == "200 images judged."
    sizes = visit.page.locator("#list img").evaluate_all("all => all.map((each) => each.src.slice(0, 5))")
    assert sizes == ["blob:"] * 200


def test_what_is_over_a_limit_is_told_before_it_is_sent(visit: Visit) -> None:
    large = image((10, 10, 10), (900, 900), "BMP")
    card = visit.give({"large.bmp": large}).first
    assert card.locator(".fault").inner_text() == "Too large: 2.4 MB, and the limit is 2 MB."
    assert visit.server.asked == []


def test_a_busy_server_is_asked_again_visibly(visit: Visit) -> None:
    visit.excused.append("429")
    visit.server.busy = 2
    visit.page.set_input_files("#files", [{"name": "a.png", "mimeType": "", "buffer": RED}])
    visit.page.get_by_text(re.compile(r"The server is busy. Trying again in 1 s \(2 of 5\)")).wait_for()
    visit.page.get_by_text("(3 of 5)").wait_for()
    assert visit.judged(1).locator("h3").inner_text() == "red, 88.2%"


def test_a_server_that_stays_busy_is_given_up_and_can_be_asked_again(visit: Visit) -> None:
    visit.excused.append("429")
    visit.server.busy = 5
    card = visit.give({"a.png": RED}).first
    assert card.locator(".fault").inner_text() == "The server was busy each time. Try again later."
    card.locator("button").click()
    assert visit.judged(1).locator("h3").inner_text() == "red, 88.2%"


def test_a_server_that_is_gone_is_told_and_asked_again(browser: Any) -> None:
    with serving() as server, Visit(browser, server) as visit:
        visit.excused.append("ERR_CONNECTION_REFUSED")
        page, port = visit.open(), server.server_port
        server.shutdown()
        server.server_close()
        page.context.set_offline(True)  # a connection that is kept open would outlive the server
        page.context.set_offline(False)
        visit.excused += ["ERR_INTERNET_DISCONNECTED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"]
        page.route("**/v1/predict*", lambda route: route.abort("connectionrefused"))
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "", "buffer": RED}])
        page.get_by_text("The server does not answer. Is it still running?").wait_for()
        assert page.locator("li[data-state=stopped]").count() == 1
        page.unroute("**/v1/predict*")
        with serving(port):
            page.click("#notice-button")
            assert visit.judged(1).locator("h3").inner_text() == "red, 88.2%"
            assert not page.locator("#notice").is_visible()


def test_a_token_is_asked_for_once(browser: Any, server: Standin) -> None:
    server.token = "open-sesame"
    with Visit(browser, server) as visit:
        visit.excused.append("401")
        page = visit.open(wait=False)
        page.locator("#token[open]").wait_for()
        assert page.evaluate("document.activeElement.id") == "token-text"
        page.keyboard.press("Escape")
        page.get_by_text("Without the token the server gives no answers.").wait_for()
        page.click("#notice-button")
        page.fill("#token-text", "wrong")
        page.keyboard.press("Enter")
        page.get_by_text("That was not the right token.").wait_for()
        page.fill("#token-text", "open-sesame")
        page.keyboard.press("Enter")
        page.locator("#about").wait_for()
        assert visit.give({"a.png": RED}).locator("h3").inner_text() == "red, 88.2%"
        page.reload()
        page.locator("#about").wait_for()
        assert not page.locator("#token").is_visible()
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


def test_the_address_may_bring_the_token(browser: Any, server: Standin) -> None:
    server.token = "open-sesame"
    with Visit(browser, server) as visit:
        visit.page.goto(f"{server.url}#token=open-sesame")
        visit.page.locator("#about").wait_for()
        assert visit.page.url == server.url  # it does not stay where somebody else may read it
        visit.page.reload()
        visit.page.locator("#about").wait_for()
        assert not visit.page.locator("#token").is_visible()


# --- corrections ------------------------------------------------------------------------------------------------------


def test_a_correction_stores_the_image_and_its_class(visit: Visit) -> None:
    card = visit.give({"a.png": RED}).first
    card.get_by_text("Correct this answer").click()
    card.get_by_label("Right class").fill(" tulip ")
    assert visit.page.locator("#class-names option").evaluate_all("all => all.map((each) => each.value)") == [
        "red",
        "green",
        "blue",
    ]
    card.get_by_role("button", name="Store").click()
    card.get_by_text("Stored for the next training as tulip.").wait_for()
    assert visit.server.stored == [("tulip", RED)]
    assert visit.page.evaluate("document.activeElement.className") == "stored"


def test_without_a_folder_for_them_there_are_no_corrections(browser: Any) -> None:
    with serving(corrections=False) as server, Visit(browser, server) as visit:
        page = visit.open()
        visit.give({"a.png": RED})
        assert page.get_by_text("Correct this answer").count() == 0
        assert "are not kept" in page.locator("#where").inner_text()


# --- for everybody ----------------------------------------------------------------------------------------------------


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page, reached = visit.page, []
    visit.give({"a.png": RED})
    page.evaluate("document.activeElement.blur()")
    for _ in range(12):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
              const own = document.activeElement, shown = own.classList.contains("away") ? own.nextElementSibling : own;
              const { outlineStyle, outlineWidth } = getComputedStyle(shown);
              return [own.id || own.tagName, outlineStyle === "solid" && parseFloat(outlineWidth) >= 2];
            }"""
        )
        if focused[0] == "BODY":
            break
        reached.append(focused)
    names = [name for name, _ in reached]
    assert names == ["language", "files", "camera", "heat", "download", "clear", "SUMMARY", "SUMMARY"]
    assert all(outlined for _, outlined in reached)
    page.locator("#heat").focus()
    page.keyboard.press("Space")
    assert page.locator("canvas").is_visible()
    page.locator("#list summary").focus()
    for key in ("Enter", "Tab"):
        page.keyboard.press(key)
    page.keyboard.type("blue")
    page.keyboard.press("Enter")
    page.get_by_text("Stored for the next training as blue.").wait_for()


def test_chinese_by_itself_and_by_the_button(browser: Any, server: Standin) -> None:
    with Visit(browser, server, locale="zh-CN") as visit:
        page = visit.open()
        card = visit.give({"a.png": RED}).first
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"
        assert card.locator("h3").inner_text() == "red，88.2%"
        page.click("#language")
        assert page.evaluate("document.documentElement.lang") == "en"
        assert card.locator("h3").inner_text() == "red, 88.2%"
        assert page.locator("label[for=files]").inner_text() == "Choose images"
        page.reload()
        page.locator("#about").wait_for()
        assert page.evaluate("document.documentElement.lang") == "en"  # remembered


def test_both_languages_say_the_same_things(visit: Visit) -> None:
    shapes = visit.page.evaluate(
        """() => import("/words.js").then(({ words }) => Object.values(words).map((own) => JSON.stringify(
          Object.entries(own).filter(([key]) => key !== "faults")
            .map(([key, text]) => [key, [...new Set(String(text).match(/\\{\\w+\\}/g) ?? [])].sort()])
            .concat(Object.keys(own.faults)))))"""
    )
    assert shapes[0] == shapes[1]
    source = "".join(file.read_text(encoding="utf-8") for file in PAGE.iterdir() if file.name != "words.js")
    keys = visit.page.evaluate("() => import('/words.js').then(({ words }) => Object.keys(words.en))")
    assert [key for key in keys if not re.search(rf"\b{key}\b", source)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_it_is_for_everybody(browser: Any, server: Standin, width: int, scheme: str) -> None:
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "bypass_csp": True}
    with Visit(browser, server, **options) as visit:
        page = visit.open()
        assert violations(page) == []
        visit.give({"a.png": RED, "u.png": BRIGHT, f"{'long-name-' * 12}.jpg": b"no image"})
        page.check("#heat")
        page.locator(".correction summary").first.click()
        page.locator("#about summary").click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert violations(page) == []
        touched = "button, .button, summary, .switch, input:not(.away, [role=switch])"
        small = """(touched) => [...document.querySelectorAll(touched)]
          .map((each) => [each.id || each.className || each.tagName, each.getBoundingClientRect().toJSON()])
          .filter(([, box]) => box.height && (box.height < 44 || box.width < 44)).map(([name]) => name)"""
        assert page.evaluate(small, touched) == []
        page.click("#camera")
        page.locator("#take:not([disabled])").wait_for()
        assert violations(page) == []


def violations(page: Any) -> list[tuple[str, str]]:
    found = axe.Axe().run(page).response["violations"]
    return [(each["id"], str(each["nodes"][:2])) for each in found if each["impact"] in ("serious", "critical")]
