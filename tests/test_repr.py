"""What an object says of itself fits on a line or two, however many classes and images it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
import graft_runtime
from graft.data.dataset import Dataset
from graft.model.classifier import Classifier
from graft.model.explain import explain
from graft_runtime.decide import Answer
from graft_runtime.prediction import Prediction

LONGEST = 240
NAMES = tuple(f"class {number:04}" for number in range(1000))


@pytest.fixture(scope="module")
def classifier(photos: Path) -> Classifier:
    return graft.fit(photos, strategy="probe:head=ridge,layers=last", backbone="test_resnet", weights="random")


@pytest.mark.slow
def test_every_public_object_says_what_it_is_on_a_line(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    image = photos / "disc" / "00.png"
    graft.export(classifier, tmp_path / "m.onnx")
    found: list[tuple[Any, str]] = [
        (classifier, "<Classifier of 3 classes (disc, frame, stripes): test_resnet, probe:head=ridge,layers=last>"),
        (graft.read_source(photos), f"<Dataset of 36 images in {photos}: 3 classes (disc, frame, stripes)>"),
        (classifier.evaluate(photos), "right on 36 images (95% confidence: "),
        (classifier.predict(image, unknown=0)[0], f"{image}>"),
        (classifier.predict(image, unknown=0)[0].answer, "of 3 classes>"),
        (classifier.card, "<Card of 3 classes: test_resnet, probe:head=ridge,layers=last>"),
        (classifier.memory, "<Memory of "),
        (
            graft_runtime.load(tmp_path / "m.onnx"),
            "<Predictor of 3 classes (disc, frame, stripes): test_resnet, float32>",
        ),
        (graft.check(photos, quick=True), "classes (disc, frame, stripes)>: "),
        (graft.compare_runs(classifier, classifier), "not distinguishable, accuracy "),
        (next(iter(explain(classifier, image, "disc"))), f"<Explanation of disc for {image}>"),
        (graft.check(photos, quick=True).findings[0], "<Finding "),
        (graft.embed(photos), "<Table of 36 x "),
        (graft.ImageClassifier(), "ImageClassifier()"),
    ]
    for each, want in found:
        assert want in repr(each)
        assert len(repr(each)) <= LONGEST + len(str(photos)), repr(each)


def test_a_thousand_classes_fit_on_a_line_too(classifier: Classifier) -> None:
    large = replace(classifier, card=replace(classifier.card, classes=NAMES, thresholds=(0.5,) * 1000))
    assert repr(large).startswith("<Classifier of 1,000 classes (class 0000, class 0001, ")
    assert "and 995 more" in repr(large)
    data = Dataset(graft.from_paths(["a.jpg"]).images, np.zeros(1, np.int32), NAMES, np.zeros(1, np.int8))
    answer = Answer("class 0001", 0.5, dict.fromkeys(NAMES, 0.001), ("class 0001",), NAMES)
    for each in (large, large.card, data, answer, Prediction("a.jpg", answer)):
        assert len(repr(each)) <= LONGEST, repr(each)
