"""A folder for browsers answers as the classifier does: in Node, where it is checked, and in a real Chromium.

Needs Node with npm, the extra `browser` and a Chromium: `playwright install chromium`, or its path in CHROMIUM.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import onnx
import pytest
import sabotage
from PIL import Image
from standin import PAGE, hosted
from typer.testing import CliRunner, Result

import graft_runtime
from graft.backbones import preprocess
from graft.cli import app
from graft.errors import ExportError, OutputError, UsageError
from graft.jobs.export import parity, web
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load
from graft.progress import no_progress
from graft_runtime import contract

ASK = """([name, text]) => import("./answerer.js").then(async ({ answer }) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  return (await answer([new File([bytes], name)]))[0];
})"""


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


# --- before any work --------------------------------------------------------------------------------------------------


def test_int8_is_refused_with_the_reason(model: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slower than float32"):
        export(model, tmp_path / "web", to="web", int8=True, check=photos)
    done = graft("export", model, "-o", tmp_path / "web", "--to", "pdf")
    assert (done.exit_code, "torch, web. Got 'pdf'" in done.output) == (2, True)


def test_what_graft_did_not_write_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    web.check_output(folder, force=False)
    folder.mkdir()
    web.check_output(folder, force=False)  # empty
    (folder / "index.html").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'index.html', which graft did not write"):
        web.check_output(folder, force=True)
    (folder / web.README).write_text(f"{web.SIGNATURE}\n")
    with pytest.raises(OutputError, match="--force"):
        web.check_output(folder, force=False)
    web.check_output(folder, force=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes.txt'"):
        web.check_output(folder, force=True)
    with pytest.raises(OutputError, match="There is no folder"):
        web.check_output(tmp_path / "no/web", force=False)


def test_a_file_is_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "web").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'web', which graft did not write"):
        web.check_output(tmp_path / "web", force=True)


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ([], "Install Node.js 18"),
        (["node"], "npm is not installed. Try again with a connection, or copy ort.wasm.bundle.min.mjs and"),
        (["node", "npm"], r"npm failed: .*(ECONNREFUSED|network|connect)"),
    ],
)
def test_what_is_missing_is_told(
    programs: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: shutil.which(name) for name in ("node", "npm")}
    if not all(places.values()):
        pytest.skip("needs Node with npm")
    (tmp_path / "bin").mkdir()
    for name in programs:
        (tmp_path / "bin" / name).symlink_to(str(places[name]))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(ExportError, match=said):
        web.fetch_runtime(no_progress)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be published, and run by whoever opens the page."""
    good = dict.fromkeys(web.RUNTIME, b"good")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    monkeypatch.setattr(web, "RUNTIME", {name: hashlib.sha256(raw).hexdigest() for name, raw in good.items()})
    monkeypatch.setattr(web.shutil, "which", lambda name: name)
    dist, fetched = tmp_path / "dist", list[Path]()
    dist.mkdir()
    for name, raw in good.items():
        (dist / name).write_bytes(raw)
    monkeypatch.setattr(
        web, "_download_runtime", lambda folder: (fetched.append(folder), web._copy_runtime(dist, folder))
    )
    folder = web.fetch_runtime(no_progress)
    assert (web.fetch_runtime(no_progress), len(fetched)) == (folder, 1)
    first = folder / next(iter(good))
    first.write_bytes(b"evil")
    assert (web.fetch_runtime(no_progress), len(fetched), first.read_bytes()) == (folder, 2, b"good")
    shutil.rmtree(folder)
    folder.write_bytes(b"no folder")
    assert (web.fetch_runtime(no_progress), len(fetched), first.read_bytes()) == (folder, 3, b"good")
    (dist / first.name).write_bytes(b"other")
    first.unlink()
    with pytest.raises(ExportError, match=rf"{first.name} is not the file of onnxruntime-web"):
        web.fetch_runtime(no_progress)


def test_the_lock_file_pins_the_package_and_names_no_address() -> None:
    lock = json.loads((web.HERE / "npm/package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert lock[f"node_modules/{web.PACKAGE}"]["version"] == web.VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", web.VERSION)
    assert all(each["integrity"].startswith("sha512-") for name, each in lock.items() if name)
    assert not any("resolved" in each for each in lock.values())


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime() -> Path:
    """onnxruntime-web in the tests' own cache."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs Node with npm")
    try:
        return web.fetch_runtime(no_progress)
    except ExportError as error:
        if not re.search("ENOTFOUND|ECONN|ETIMEDOUT|EAI_AGAIN|network", str(error)):
            raise
        pytest.skip(f"needs the npm registry: {error}")


@pytest.fixture(scope="module")
def folder(model: Path, photos: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("web") / "web"
    report = export(model, place, to="web", check=photos, evidence=photos)
    assert (report["parity"]["changed"], report["format"]) == (0, "web")
    assert report["parity"]["worst"] < 1e-4
    return place


@pytest.mark.slow
def test_the_folder_is_complete(folder: Path, model: Path) -> None:
    shared = {path.name for path in PAGE.iterdir()} - {"ask-server.js", "ask-browser.js"}
    own = {"answerer.js", web.MODEL, web.README, web.LICENCES, *web.RUNTIME}
    assert {path.name for path in folder.iterdir()} == shared | own
    assert (folder / "answerer.js").read_bytes() == (PAGE / "ask-browser.js").read_bytes()
    assert graft_runtime.load(folder / web.MODEL).classes == load(model).classes
    assert (folder / web.README).read_text().startswith(web.SIGNATURE)
    licences = (folder / web.LICENCES).read_text()
    assert all(f"{what}: {licence}" in licences for what, licence in load(model).card.licences.items())
    assert "Microsoft Corporation" in licences


@pytest.mark.slow
def test_a_folder_that_answers_otherwise_is_not_written(
    folder: Path, model: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bent = shutil.copytree(PAGE, tmp_path / "page")
    source = (bent / "contract.js").read_text(encoding="utf-8")
    turned = source.replace(
        "Array.from(said.probabilities.data, Number)", "Array.from(said.probabilities.data).reverse()"
    )
    assert turned != source
    (bent / "contract.js").write_text(turned, encoding="utf-8")
    monkeypatch.setattr(web, "PAGE", bent)
    place = shutil.copytree(folder, tmp_path / "place" / "web")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(ExportError, match="does not answer as the classifier does: a probability is off by"):
        written(place, folder, load(model), runtime)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in place.parent.iterdir()] == ["web"]


@pytest.mark.slow
@pytest.mark.parametrize("bent", [sabotage.swapped, sabotage.wrong_mean, sabotage.squashed])
def test_a_model_that_answers_otherwise_in_node_is_not_written(
    bent: Any, model: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "prepend_preprocess", bent)
    monkeypatch.setattr(parity.Parity, "find_mismatch", lambda _: "")
    export(model, tmp_path / "model.onnx")  # ONNX Runtime would have refused it
    monkeypatch.undo()
    with pytest.raises(ExportError, match=r"In the browser's runtime .* a probability is off by"):
        written(tmp_path / "web", tmp_path, load(model), runtime)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_a_folder_here_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path / "site")
    monkeypatch.setattr(web, "fetch_runtime", lambda _: tmp_path)
    with pytest.raises(OutputError, match=r"site cannot be written: No such file"):  # of a runtime that is not there
        export(model, ".", to="web")


def written(place: Path, folder: Path, classifier: Classifier, runtime: Path) -> None:
    """The same model written anew, with the page as it is now."""
    given = parity.collect_parity_images(classifier, None, no_progress)
    web.write(place, (folder / web.MODEL).read_bytes(), runtime, classifier, given, no_progress)


@pytest.mark.slow
def test_a_folder_whose_code_fails_says_why(
    folder: Path, model: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bent = shutil.copytree(PAGE, tmp_path / "page")
    (bent / "contract.js").write_text(
        "export const decided = 1, wanted = 2, intact = () => {};\n"
        "export function described() {\n  throw new Error('no luck');\n}"
    )
    monkeypatch.setattr(web, "PAGE", bent)
    with pytest.raises(ExportError, match=r"cannot run the export in Node: Error: no luck"):
        written(tmp_path / "web", folder, load(model), runtime)
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


WORKER = """
import { readFileSync } from "node:fs";
const name = process.argv[2];
const said = new Promise((resolve) => Object.assign(globalThis, {
  onmessage: null,
  postMessage: (told) => told.id && resolve(told),
  fetch: async (file) => new Response(readFileSync(file === "model.onnx" ? name : file)),
}));
await import("./worker.js");
await globalThis.onmessage({ data: { id: 1, act: "begin" } });
console.log(JSON.stringify(await said));
"""


@pytest.mark.slow
def test_a_page_whose_model_is_damaged_or_does_not_fit_says_so_before_any_answer(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    """The code of the page in Node, as a browser would run it in its thread."""
    place = shutil.copytree(folder, tmp_path / "web")
    (place / "run.mjs").write_text(WORKER)
    (place / "package.json").write_text('{"type": "module"}')
    whole = (place / web.MODEL).read_bytes()
    card, about = contract.read_description(whole)
    bare = onnx.load_from_string(whole)
    del bare.metadata_props[:]
    other = replace(card, classes=(*card.classes, "x"), head={})
    (place / "six.onnx").write_bytes(contract.append_description(bare.SerializeToString(), other, about))
    name = f'"{card.classes[0]}"'.encode()
    (place / "turned.onnx").write_bytes(whole.replace(name, name.swapcase()))
    (place / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    for file, told in (
        (web.MODEL, None),
        ("six.onnx", f"names {len(card.classes) + 1} classes, and its network has {len(card.classes)}"),
        ("turned.onnx", "its content is not what was written"),
        ("cut.onnx", "not all of it is there"),
    ):
        words = ["node", "run.mjs", file]
        found = json.loads(subprocess.run(words, cwd=place, capture_output=True, text=True, check=True).stdout)
        if told is None:
            assert tuple(found["said"]["classes"]) == card.classes
        else:
            assert told in found["fault"]["message"]


# --- in Chromium ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started() as found:
        yield found


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page on a plain host, below a folder; nothing may be said on the console, nor asked of anybody else."""
    with hosted(folder.parent) as url:
        context = browser.new_context(viewport={"width": 390, "height": 900})
        page, said, asked = context.new_page(), list[str](), list[str]()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}{folder.name}/")
        page.locator("#about").wait_for()
        yield page
        context.close()
        assert said == []
        assert any(each.endswith(web.MODEL) for each in asked)
        assert [each for each in asked if not each.startswith((url, "blob:", "data:"))] == []


def files(folder: Path, photos: Path) -> list[Path]:
    """Photos, and images of the kinds that browsers and Pillow could read in different ways."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (9, 12, 4), dtype=np.uint8)).resize(
        (240, 180), Image.Resampling.BICUBIC
    )
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    noise.convert("RGB").save(folder / "turned.jpg", exif=turned)
    noise.convert("RGB").save(folder / "progressive.jpg", progressive=True, subsampling=2)
    noise.convert("L").save(folder / "grey.jpg")
    noise.convert("RGB").convert("P").save(folder / "palette.gif")
    noise.convert("RGB").save(folder / "lossless.webp", lossless=True)
    noise.convert("RGB").save(folder / "plain.bmp")
    noise.save(folder / "clear.png")
    noise.convert("RGB").resize((300, 40)).save(folder / "strip.png")
    return [*sorted(photos.glob("*/*")), *sorted(folder.iterdir())]


@pytest.mark.slow
def test_chromium_answers_as_the_runtime(page: Any, folder: Path, photos: Path, tmp_path: Path) -> None:
    paths = files(tmp_path, photos)
    want = graft_runtime.load(folder / web.MODEL).predict(paths)
    for path, own in zip(paths, want, strict=True):
        said = page.evaluate(ASK, [path.name, base64.b64encode(path.read_bytes()).decode()])
        near = 2e-2 if path.name == "clear.png" else 1e-3  # half-transparent colours are rounded
        assert said["probabilities"] == pytest.approx(own.probabilities, abs=near), path.name
        assert (said["label"], tuple(said["labels"]), said["unknown"]) == (own.label, own.labels, own.unknown)
        assert said["fault"] == ""
        if path.name != "clear.png":
            cosines = [each.similarity for each in own.nearest]
            assert [each["similarity"] for each in said["nearest"]] == pytest.approx(cosines, abs=1e-3), path.name
            first = said["nearest"][0]  # others may be as near as each other
            assert (first["image"], first["thumbnail"]) == (own.nearest[0].image, own.nearest[0].thumbnail)
            assert len(cosines) == 5


@pytest.mark.slow
def test_what_cannot_be_read_has_the_fault_of_the_runtime(page: Any) -> None:
    for content, fault in ((b"", "empty file"), (b"no image", "not an image")):
        assert page.evaluate(ASK, ["x.png", base64.b64encode(content).decode()])["fault"] == fault


@pytest.mark.slow
def test_a_large_photo_is_made_smaller_as_the_decoder_does(page: Any, folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (4000, 3000), Image.Resampling.BICUBIC
    )
    blobs.save(tmp_path / "large.jpg", quality=90)
    content = (tmp_path / "large.jpg").read_bytes()
    said = page.evaluate(ASK, ["large.jpg", base64.b64encode(content).decode()])
    (own,) = graft_runtime.load(folder / web.MODEL).predict(content)
    assert said["probabilities"] == pytest.approx(own.probabilities, abs=0.02)


@pytest.mark.slow
def test_a_person_sees_answer_and_heat_map_and_that_nothing_leaves(page: Any, folder: Path, photos: Path) -> None:
    path = sorted(photos.glob("disc/*"))[0]
    (own,) = graft_runtime.load(folder / web.MODEL).predict([path])
    assert "no image leaves it" in page.locator("#where").inner_text()
    page.set_input_files("#files", [str(path)])
    card = page.locator("#list > li[data-state=done]")
    card.wait_for()
    assert card.locator("h3").inner_text().startswith("(unknown)" if own.unknown else own.label)
    page.check("#heat")
    assert card.locator("canvas").is_visible()
    assert page.get_by_text("Correct this answer").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_the_heat_map_covers_the_part_that_the_network_sees(page: Any, model: Path) -> None:
    """An image that is bright only there is all bright to the network."""
    card, preprocess = json.loads((model / "model.json").read_text()), load(model).network.preprocess
    for height, width in ((300, 400), (640, 480), (100, 900), (700, 50), (33, 33)):
        ask = "([card, h, w]) => import('./contract.js').then(({ area }) => area({ card }, h, w))"
        left, top, wide, high = page.evaluate(ask, [card, height, width])
        image = np.zeros((height, width, 3), np.uint8)
        rows = slice(int(np.floor(top * height)), int(np.ceil((top + high) * height)))
        columns = slice(int(np.floor(left * width)), int(np.ceil((left + wide) * width)))
        image[rows, columns] = 255
        assert preprocess.prepare(image).mean() > 250
        side = round(min(height, width) * preprocess.size / preprocess.resize)
        assert (wide * width, high * height) == pytest.approx((side, side), abs=2)


@pytest.mark.slow
def test_a_missing_model_is_told_and_can_be_fetched_again(browser: Any, folder: Path) -> None:
    with hosted(folder) as url:
        page = browser.new_page()
        page.route("**/model.onnx", lambda route: route.abort())
        page.goto(url)
        page.get_by_text("A file of this page cannot be fetched.").wait_for()
        page.unroute("**/model.onnx")
        page.click("#notice-button")
        page.locator("#about").wait_for()
        page.close()


@pytest.mark.slow
def test_real_photos(browser: Any, runtime: Path, shared: Path, tmp_path: Path) -> None:
    root = shared / "data/flowers5"
    for part, count in (("train", 6), ("test", 3)):
        for place in sorted((root / part).iterdir()):
            (tmp_path / part / place.name).mkdir(parents=True)
            for path in sorted(place.glob("*.jpg"))[:count]:
                shutil.copy(path, tmp_path / part / place.name)
    fit(tmp_path / "train", tmp_path / "model", strategy="probe:head=ridge,layers=last")
    export(tmp_path / "model", tmp_path / "web", to="web", check=tmp_path / "test")
    paths = sorted((tmp_path / "test").glob("*/*"))
    want = graft_runtime.load(tmp_path / "web" / web.MODEL).predict(paths)
    with hosted(tmp_path / "web") as url:
        page = browser.new_page()
        page.goto(url)
        page.locator("#about").wait_for()
        got = [page.evaluate(ASK, [path.name, base64.b64encode(path.read_bytes()).decode()]) for path in paths]
        page.close()
    for one, other in zip(got, want, strict=True):
        assert one["probabilities"] == pytest.approx(other.probabilities, abs=1e-4)
        assert (one["label"], one["unknown"]) == (other.label, other.unknown)
