"""The page of a check: complete in itself, bounded, and it shows what it speaks of, whatever the names are."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from markup import Page
from PIL import Image

from graft.errors import OutputError
from graft.jobs.check import gallery
from graft.jobs.check.check import check


@pytest.fixture(scope="module")
def text(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("gallery") / "photos"
    shutil.copytree(photos, root)
    (root / "disc/bad.png").write_bytes(b"")
    hostile = root / "<script>alert(1)<&script>"
    shutil.move(root / "frame", hostile)
    shutil.copy(root / "disc/00.png", hostile / "a 'quoted' \"name\".png")
    for number in range(40):
        shutil.copy(root / "disc/02.png", root / f"disc/copy {number:02d}.png")
    found = check(root, offline=True)
    path = root.parent / "check.html"
    found.write(path)
    return path.read_text(encoding="utf-8")


@pytest.mark.fault(23)
def test_every_tag_is_closed_and_no_name_becomes_markup(text: str) -> None:
    page = Page(text)
    assert page.all("script") == []
    assert "&lt;script&gt;alert(1)&lt;&amp;script&gt;" in text


def test_nothing_is_fetched_from_elsewhere(text: str) -> None:
    page = Page(text)
    assert all((each["src"] or "").startswith("data:image/jpeg;base64,") for each in page.all("img"))
    assert {name for name, _ in page.tags} & {"script", "link", "iframe", "object"} == set()
    assert not re.search(r"url\(|@import|https?:", text)
    assert any("default-src 'none'" in (each.get("content") or "") for each in page.all("meta"))


def test_images_are_small_and_say_what_they_are(text: str) -> None:
    for each in Page(text).all("img"):
        code = (each["src"] or "").partition(",")[2]
        image = Image.open(io.BytesIO(base64.b64decode(code)))
        assert max(image.size) <= gallery.SIDE
        assert [str(side) for side in image.size] == [each["width"], each["height"]]
        assert each["alt"]


def test_a_finding_shows_a_bounded_number_of_cases_side_by_side(text: str) -> None:
    page = Page(text)
    pairs = [each for each in page.all("li") if each.get("class") == "pair"]
    assert len(pairs) >= gallery.MAX_CASES
    assert "and 16 more: <code>graft check --json</code> names them." in text  # 40 copies
    assert len(text) < 2_000_000


def test_an_image_that_cannot_be_shown_has_a_place_all_the_same(text: str) -> None:
    assert 'aria-label="cannot be shown"' in text
    assert "empty file" in text


def test_every_link_leads_to_a_section(text: str) -> None:
    page = Page(text)
    links = {(each["href"] or "")[1:] for each in page.all("a")}
    sections = {each.get("id") for each in page.all("section")} - {None}
    assert links == sections
    headings = {each["id"] for each in page.all("h2")}
    assert {each["aria-labelledby"] for each in page.all("section")} == headings


def test_a_page_of_others_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "check.html"
    gallery.write(gallery.SIGNATURE, path)
    with pytest.raises(OutputError, match="Use --force"):
        gallery.write(gallery.SIGNATURE, path)
    gallery.write(f"{gallery.SIGNATURE} anew", path, force=True)
    path.write_text("<html>mine</html>", encoding="utf-8")
    with pytest.raises(OutputError, match="not even --force"):
        gallery.check(path, force=True)
    with pytest.raises(OutputError, match="is a folder"):
        gallery.check(tmp_path, force=True)
