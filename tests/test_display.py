"""What results show of themselves in a notebook: right numbers, escaped names, bounded, and nothing fetched."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markup import Page
from PIL import Image

import graft
from graft.data.dataset import Dataset, from_arrays, from_paths
from graft.metrics.evaluation import evaluate_multiclass, evaluate_multilabel
from graft.model.classifier import Classifier
from graft.model.explain import explain

HOSTILE = "<script>alert('x')</script>"
MOST = 100_000  # characters of what a notebook keeps for one result


@pytest.fixture(scope="module")
def images(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos, with a class of a hostile name, a file that is no image and a copy under another label."""
    root = tmp_path_factory.mktemp("shown") / "photos"
    shutil.copytree(photos, root)
    shutil.move(root / "frame", root / HOSTILE.replace("/", "_"))
    (root / "disc/bad.png").write_bytes(b"")
    shutil.copy(root / "disc/00.png", root / "stripes/00 copy.png")
    return root


@pytest.fixture(scope="module")
def classifier(images: Path) -> Classifier:
    return graft.fit(images, strategy="probe:head=ridge,layers=last", backbone="test_resnet", weights="random")


def read(thing: Any) -> Page:
    """What a thing shows, checked for what holds of all."""
    text = thing._repr_html_()
    page = Page(text)
    text.encode()
    assert len(text) < MOST
    assert not {"script", "style", "link", "a", "iframe"} & {tag for tag, _ in page.tags}
    assert all((each["src"] or "").startswith("data:image/jpeg;base64,") for each in page.all("img"))
    assert not [name for _, each in page.tags for name in each if name.startswith("on")]
    return page


def decoded(page: Page) -> list[np.ndarray[Any, Any]]:
    """The images in a page."""
    found = [(each["src"] or "").partition(",")[2] for each in page.all("img")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_a_classifier_shows_its_card_score_and_what_to_do_next(classifier: Classifier) -> None:
    page = read(classifier)
    score = classifier.report["evaluation"]
    low, high = score["interval"]
    assert "Classifier of 3 classes test_resnet, strategy probe:head=ridge,layers=last" in page.text
    assert f"{score['accuracy']:.1%} right on {score['count']} held-out images" in page.text
    assert f"(95 % confidence: {low:.1%} to {high:.1%})" in page.text
    train = classifier.card.data["train"]
    for each, share in zip(score["classes"], classifier.card.data["shares"], strict=True):
        f1 = "–" if each["f1"] is None else f"{each['f1']:.1%}"
        assert f"{each['name']} {round(share * train)} {each['count']} {f1}" in page.text
    assert 'classifier.predict("photo.jpg")' in page.text


@pytest.mark.parametrize(
    "score",
    [{"task": 3}, [1], {"classes": 7}, {"task": "multiclass", "accuracy": "x", "interval": [0, 1], "count": 10**400}],
)
def test_a_report_that_graft_did_not_write_is_said(classifier: Classifier, score: Any) -> None:
    assert "Its report.json is not what graft wrote." in read(replace(classifier, report={"evaluation": score})).text


def test_a_classifier_without_a_test_says_so(classifier: Classifier) -> None:
    assert "Not evaluated" in read(replace(classifier, report={})).text


def test_a_thousand_classes_are_counted_and_a_few_shown(classifier: Classifier) -> None:
    names = tuple(f"class {number:04}" for number in range(1000))
    page = read(replace(classifier, card=replace(classifier.card, classes=names), report={}))
    assert "Classifier of 1,000 classes" in page.text
    assert "class 0011 – – – and 988 more" in page.text
    data = Dataset(from_paths(["gone.jpg"]).images, np.zeros(1, np.int32), names, np.zeros(1, np.int8))
    page = read(data)
    assert "class 0000 1 class 0001 0" in page.text
    assert "and 988 smaller classes" in page.text
    assert page.all("img") == []


def test_a_data_set_shows_its_counts_and_an_image_of_each_class(images: Path) -> None:
    data = graft.read_source(images)
    page = read(data)
    assert f"{len(data)} images, 3 classes {images}" in page.text
    for name, count in zip(data.classes, data.counts().tolist(), strict=True):
        assert f"{name} {count}" in page.text
    assert len(page.all("img")) in (2, 3)  # bad.png may be the first of its class


def test_images_in_memory_are_shown_by_themselves() -> None:
    colours = [(200, 30, 40), (20, 160, 60)]
    data = from_arrays([np.full((30, 20, 3), each, np.uint8) for each in colours])
    for seen, colour in zip(decoded(read(data)), colours, strict=True):
        assert seen.shape == (30, 20, 3)
        assert np.abs(seen.astype(int) - colour).max() <= 6


def test_a_prediction_shows_its_image(classifier: Classifier, images: Path) -> None:
    path = images / "disc/02.png"
    [found] = classifier.predict(path, unknown=0)
    page = read(found)
    assert f"{found.label} ({found.probability:.1%})" in page.text
    for name, value in found.probabilities.items():
        assert f"{name} {value:.1%}" in page.text
    [seen] = decoded(page)
    with Image.open(path) as stored:
        assert seen.shape[:2] == (stored.height, stored.width)


def test_an_evaluation_shows_its_interval_confusions_and_worst_classes(classifier: Classifier, images: Path) -> None:
    found = classifier.evaluate(images)
    page = read(found)
    low, high = found.interval
    assert f"{found.accuracy:.1%} right on {found.count} images" in page.text
    assert f"95 % confidence: {low:.1%} to {high:.1%}" in page.text
    for each, row in zip(found.classes, found.confusion, strict=True):
        assert f"{each.name} {' '.join(str(count) if count else '·' for count in row)}" in page.text
    worst = found.worst_classes(1)[0]
    row = f"class, worst first F1 precision recall test images {worst.name} {worst.f1:.1%}"
    assert row in page.text
    assert "1 image could not be evaluated." in page.text


def test_many_classes_show_their_most_frequent_confusions() -> None:
    labels = np.arange(60) % 30
    probs = np.full((60, 30), 0.01)
    probs[np.arange(60), np.where(labels == 7, 8, labels)] = 0.71
    page = read(evaluate_multiclass(probs, labels, tuple(f"<b>{at}" for at in range(30))))
    assert "class taken for images <b>7 <b>8 2" in page.text


def test_several_labels_show_their_own_score() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    found = evaluate_multilabel(np.where(labels, 0.9, 0.2), labels, ("sky", "sea"))
    page = read(found)
    assert "100.0% mean average precision on 4 images" in page.text
    assert "Exactly the right labels: 100.0% of the images" in page.text


def test_a_check_shows_its_findings_with_their_images(images: Path) -> None:
    found = graft.check(images, quick=True)
    page = read(found)
    assert f"{len(found.findings)} findings in {len(found.data)} images" in page.text
    for finding in found.findings[:8]:
        assert finding.says[:30] in page.text
    conflict = next(each for each in found.findings if each.kind == "conflict")
    for row in conflict.cases[0].tolist():
        assert found.data.name(row) in [each["alt"] for each in page.all("img")]
    assert any("cannot be shown" in (each.get("aria-label") or "") for each in page.all("div"))


def test_an_explanation_shows_the_image_and_its_saliency(classifier: Classifier, images: Path) -> None:
    found: Any = next(iter(explain(classifier, images / "disc/02.png", "disc")))
    page = read(found)
    assert "What speaks for disc" in page.text
    plain, drawn = decoded(page)
    assert plain.shape == drawn.shape
    assert plain.mean() > drawn.mean()  # dark where nothing speaks for it


def test_a_folder_that_is_gone_shows_no_image(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "photos")
    data, report = graft.read_source(tmp_path / "photos"), graft.check(tmp_path / "photos", quick=True)
    shutil.rmtree(tmp_path / "photos")
    assert read(data).all("img") == []
    assert read(report).all("img") == []
