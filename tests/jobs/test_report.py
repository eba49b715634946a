"""The report: its numbers are those of an independent count, it needs nothing else, and names in it are only names."""

from __future__ import annotations

import csv
import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markup import Page
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from typer.testing import CliRunner, Result

from graft.cli import app, format
from graft.data.dataset import Dataset
from graft.errors import DataError, OutputError
from graft.jobs.fit import fit
from graft.jobs.report import figures
from graft.jobs.report.report import fit_command, render_report, report, source_arguments
from graft.model import storage
from graft.model.classifier import Classifier, load


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def facts(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that cannot be told apart and one that can, so that there are mistakes; an evil name among them."""
    root = tmp_path_factory.mktemp("hard")
    rng = np.random.default_rng(0)
    for name, shade in (("cat", 90), ("dog", 90), ("<b>bird</b>", 220)):
        (root / name.replace("/", "∕")).mkdir()
        for number in range(30):
            noise = rng.normal(shade, 25, (40, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / name.replace("/", "∕") / f"{number:02d}'\"><img src=x>.png")
    return root


@pytest.fixture(scope="module")
def made(hard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    fit(hard, folder, strategy="probe:head=ridge,layers=last")
    return folder


def test_every_number_is_that_of_an_independent_count(made: Path) -> None:
    text = (made / "report.html").read_text(encoding="utf-8")
    page, known = Page(text), facts(text)
    judge = load(made)
    assert judge.memory
    exam = judge.memory.tested
    assert exam
    said = exam.chances.argmax(axis=1)
    assert (said != exam.labels).sum() > 0
    right = float((said == exam.labels).mean())
    assert f'<span class="number">{right:.1%}</span>' in text
    order = list(range(3))
    cells = confusion_matrix(exam.labels, said, labels=order)
    head = next(at for at, row in enumerate(page.rows) if row == ["", *judge.classes])
    matrix = [[int(cell or 0) for cell in row[1:]] for row in page.rows[head + 1 : head + 4]]
    assert matrix == cells.tolist()
    wanted = zip(judge.classes, *precision_recall_fscore_support(exam.labels, said, labels=order), strict=True)
    table = {row[0]: row[1:] for row in page.rows[head + 5 :]}
    for name, precision, recall, f1, count in wanted:
        assert table[name] == [f"{f1:.1%}", f"{recall:.1%}", f"{precision:.1%}", str(count)]
    assert list(table) == sorted(table, key=lambda name: float(table[name][0].rstrip("%")))
    assert known["right"] == (said == exam.labels).astype(int).tolist()
    np.testing.assert_allclose(known["sure"], exam.chances.max(axis=1), atol=6e-4)
    np.testing.assert_allclose(np.array(known["chances"]) / 255, exam.chances.T, atol=2.1e-3)
    assert known["truth"] == [np.flatnonzero(exam.labels == at).tolist() for at in order]
    for name, truth, answer, sure, _ in known["images"]:
        row = exam.names.index(name)
        assert (truth, answer) == (judge.classes[exam.labels[row]], judge.classes[said[row]])
        assert sure == pytest.approx(exam.chances[row].max(), abs=6e-4)


def test_it_needs_nothing_else_and_names_are_only_names(made: Path) -> None:
    text = (made / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:image/jpeg;base64,", "#")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|https?://", text)
    policy = next(each["content"] for tag, each in page.tags if tag == "meta" and "http-equiv" in each)
    assert policy
    assert policy.startswith("default-src 'none'")
    assert "<b>bird" not in text
    assert "&lt;b&gt;bird" in text
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert all(each.get("alt") for tag, each in page.tags if tag == "img")
    assert len([tag for tag, _ in page.tags if tag == "h1"]) == 1
    assert facts(text)["images"]


def test_the_surest_mistakes_come_first_with_what_spoke_for_them(made: Path) -> None:
    text = (made / "report.html").read_text(encoding="utf-8")
    exam = load(made).memory.tested  # pyright: ignore[reportOptionalMemberAccess]
    assert exam
    said = exam.chances.argmax(axis=1)
    wrong = np.flatnonzero(said != exam.labels)
    order = wrong[np.argsort(-exam.chances.max(axis=1)[wrong], kind="stable")][:12]
    pairs = re.findall(r'<div class="pair">(.*?)</div>', text, re.DOTALL)
    assert len(pairs) == len(order)
    assert all(pair.count("<img") == 2 for pair in pairs)
    shown = re.findall(r"<strong>([^<]+)</strong> ([0-9]+)%<br>", text)
    assert [int(sure) for _, sure in shown] == [round(100 * float(exam.chances[row].max())) for row in order]


def test_a_report_by_itself_finds_the_images_wherever_they_are(made: Path, hard: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(hard, tmp_path / "moved")
    (moved / "cat").rename(moved / "kitten")
    done = graft("report", made, moved, "-o", tmp_path / "again.html", "-q")
    assert done.exit_code == 0, done.output
    again, before = ((path).read_text(encoding="utf-8") for path in (tmp_path / "again.html", made / "report.html"))
    assert facts(again) == facts(before)
    bare = graft("report", made, "-o", tmp_path / "bare.html", "-q")
    assert bare.exit_code == 0
    text = (tmp_path / "bare.html").read_text(encoding="utf-8")
    assert facts(text)["images"] == []
    assert "<img" not in text
    assert "<button" not in text


def test_what_goes_wrong_is_said(made: Path, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    place.write_text("<p>the user's own</p>")
    with pytest.raises(OutputError, match="is there already"):
        report(made, place)
    with pytest.raises(OutputError, match="not written by graft"):
        report(made, place, force=True)
    assert place.read_text() == "<p>the user's own</p>"
    with pytest.raises(OutputError, match="There is no folder"):
        report(made, tmp_path / "gone" / "report.html")
    with pytest.raises(DataError, match=r"Not one of the [0-9]+ test images"):
        report(made, tmp_path / "new.html", photos)
    assert not (tmp_path / "new.html").exists()
    report(made, tmp_path / "new.html")
    report(made, tmp_path / "new.html", force=True)
    classifier = load(made)
    object.__setattr__(classifier, "memory", None)
    with pytest.raises(DataError, match="remembers no test images"):
        report(classifier, tmp_path / "other.html")


def test_fit_writes_none_where_none_is_wanted(photos: Path, tmp_path: Path) -> None:
    done = graft("fit", photos, "-o", tmp_path / "model", "-s", "probe:head=ridge,layers=last", "--no-report", "-q")
    assert done.exit_code == 0
    assert "report.html" not in done.stdout
    assert not (tmp_path / "model" / storage.HTML_REPORT).exists()
    assert format.PAGE == storage.HTML_REPORT


def test_several_labels_an_image(photos: Path, tmp_path: Path) -> None:
    rows = ["file,label"]
    for path in sorted(photos.rglob("*.*")):
        both = path.parent.name if path.stem != "03" else f"{path.parent.name}|extra"
        rows.append(f"{path.parent.name}/{path.name},{both}")
    table = shutil.copytree(photos, tmp_path / "photos") / "labels.csv"
    table.write_text("\n".join(rows))
    fit(table, tmp_path / "model", strategy="probe:head=ridge,layers=last")
    text = (tmp_path / "model" / "report.html").read_text(encoding="utf-8")
    page, known = Page(text), facts(text)
    judge = load(tmp_path / "model")
    exam = judge.memory.tested  # pyright: ignore[reportOptionalMemberAccess]
    assert exam
    assert page.open == []
    assert known["several"] is True
    said = exam.chances >= np.array(judge.card.thresholds)
    assert known["right"] == (said == (exam.labels > 0)).all(axis=1).astype(int).tolist()
    assert known["truth"] == [np.flatnonzero(column).tolist() for column in exam.labels.T]


def test_axes_have_round_numbers() -> None:
    assert figures._ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert figures._ticks(0.13, 0.47) == pytest.approx([0.2, 0.3, 0.4])
    assert figures._ticks(0, 57) == pytest.approx([0, 20, 40])
    assert figures._ticks(1, 12) == pytest.approx([5, 10])


@pytest.mark.slow
def test_the_commands_of_a_report_work_from_any_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = tmp_path / "with blanks & more", tmp_path / "other"
    for folder in (home, other):
        folder.mkdir()
    shutil.copytree(photos, home / "my photos")
    for name in ("frame", "stripes"):  # a conflict, so that there is something to be checked
        shutil.copy(home / "my photos" / "disc" / "00.png", home / "my photos" / name / "copy.png")
    rows = [(str(path), path.parent.name) for path in sorted((home / "my photos").glob("*/*"))]
    with (home / "a table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("where", "what"), *rows])
    monkeypatch.chdir(home)
    sources: list[tuple[str, list[str]]] = [("my photos", []), ("a table.csv", ["--columns", "file=where,label=what"])]
    for source, options in sources:
        words = ["fit", source, *options, "-o", "a model", "-s", "probe:head=ridge,layers=last", "--force", "-q"]
        assert CliRunner().invoke(app.app, words).exit_code == 0
        found = re.findall(r"<code>(graft [^<]*)</code>", (home / "a model" / "report.html").read_text())
        told = [shlex.split(html.unescape(each)) for each in found if " check " in each or " fit " in each]
        assert [each[1] for each in told] == ["check", "fit"]
        for at, command in enumerate(told):
            place = other / f"{source}{at}"
            place.mkdir()
            monkeypatch.chdir(place)
            quick = ["--quick"] if command[1] == "check" else ["-q"]
            done = CliRunner().invoke(app.app, [*command[1:], *quick])
            assert done.exit_code == 0, (command, done.output)
        assert (other / f"{source}1" / "again" / "model.json").exists()
        monkeypatch.chdir(home)


def test_what_has_no_place_of_its_own_has_no_command() -> None:
    assert source_arguments(Dataset) == source_arguments([1], columns="x") == source_arguments("a", against=[1]) == ""
    assert fit_command("", "model") == fit_command("photos", None) == ""
    here = Path.cwd()
    assert source_arguments("a b", against="c", boxes=True) == f"'{here / 'a b'}' --against {here / 'c'} --boxes"


def test_many_names_are_not_on_one_line(photos: Path) -> None:
    classifier: Classifier = fit(photos, strategy="probe:head=ridge,layers=last")
    many = [f"species {number}" for number in range(173)]
    data = classifier.report["data"] | {"untested": many, "few": many, "missing": many[:2]}
    text = render_report(replace(classifier, report=classifier.report | {"data": data}))
    assert text.count("173 classes <details><summary>which</summary>") == 2
    assert "species 0, species 1</dd>" in text
