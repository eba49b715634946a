"""Images unlike the training ones are told apart from images like them, in words and before the score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import graft
from graft.data.dataset import from_arrays
from graft.data.image_stats import ImageStats, build_image_stats, measure_image
from graft.jobs import predict
from graft.metrics import unknown
from graft.metrics.unknown import AnswerCounter, Shift, summarise_training
from graft.model.classifier import Classifier
from graft_runtime.card import Card
from graft_runtime.decide import Answer
from graft_runtime.prediction import Prediction

COUNT = 40


def photo(seed: int, grey: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    blocks = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((80, 80), Image.Resampling.NEAREST)
    return np.asarray(ImageOps.grayscale(blocks).convert("RGB") if grey else blocks)


def looks(images: list[np.ndarray]) -> ImageStats:
    return ImageStats(build_image_stats([measure_image(image, image) for image in images]))


@pytest.fixture(scope="module")
def card() -> Card:
    labels = np.arange(COUNT) % 2
    remembered = summarise_training(looks([photo(seed) for seed in range(COUNT)]), np.arange(COUNT), labels, 2)
    return Card(
        classes=("cat", "dog"),
        temperature=1.0,
        preprocess={"size": 32, "resize": 32},
        backbone={"name": "cnn"},
        head={},
        strategy="probe",
        unknown={"limit": 0.5},
        metrics={"accuracy": 0.92},
        data=remembered,
        weights={},
    )


def told(card: Card, images: list[np.ndarray], unknown: int = 0, dogs: int = COUNT // 2, rate: float = 0.05) -> Shift:
    """The shift where so many of the images are called unknown and, of the others, so many dogs."""
    answers = AnswerCounter(card)
    for at in range(len(images)):
        name = "dog" if at % COUNT < dogs else "cat"
        odd = at < unknown
        answers.add(Prediction("", Answer(name, 0.9, {}, () if odd else (name,), unknown=odd)))
    return answers.compute_shift(rate, from_arrays(images))


def test_of_images_like_the_training_ones_nothing_is_said(card: Card) -> None:
    found = told(card, [photo(seed) for seed in range(100, 100 + COUNT)], unknown=2)
    assert (found.unlike, found.looks, found.classes, found.score_caveats(), found.answer_caveats()) == (
        False,
        (),
        {},
        (),
        (),
    )


def test_far_more_unknown_images_than_allowed_are_said_with_what_it_means(card: Card) -> None:
    found = told(card, [photo(seed) for seed in range(COUNT)], unknown=10)
    assert found.unlike
    (score,), (answers,) = found.score_caveats(), found.answer_caveats()
    assert score.startswith("these images are unlike the training images: 25.0% of them are called unknown, where 5% ")
    assert score.endswith("The score is about such images; on images like the training ones it was 92.0%")
    assert answers.endswith("Fewer answers are right than their probabilities say: label some, and ask graft evaluate")


def test_how_many_are_allowed_for_counts(card: Card) -> None:
    images = [photo(seed) for seed in range(COUNT)]
    assert not told(card, images, unknown=10, rate=0.2).unlike
    assert told(card, images, unknown=10, rate=0.0).unknown is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda image: np.asarray(ImageOps.grayscale(Image.fromarray(image)).convert("RGB")), "less colourful"),
        (lambda image: image // 4, "darker"),
        (lambda image: 255 - (255 - image) // 4, "brighter"),
        (lambda image: (100 + image // 8).astype(np.uint8), "of less contrast"),
        (lambda image: np.where(image > 128, 255, image).astype(np.uint8), "of more contrast"),
    ],
)
def test_what_was_done_to_the_pixels_is_named(card: Card, change: Any, word: str) -> None:
    found = told(card, [change(photo(seed)) for seed in range(COUNT)])
    assert word in found.looks
    assert found.score_caveats()[0].startswith("these images differ from the training images: they are ")


def test_classes_that_are_answered_far_more_often_than_trained_on_are_named(card: Card) -> None:
    images = [photo(seed) for seed in range(2 * COUNT)]
    assert told(card, images, dogs=COUNT - 4).classes == {"dog": (0.9, 0.5), "cat": (0.1, 0.5)}
    assert "90% dog, 50% in training, 10% cat, 50% in training" in told(card, images, dogs=COUNT - 4).score_caveats()[0]
    assert told(card, images, dogs=COUNT // 2 + 4).classes == {}


def test_of_a_handful_of_images_nothing_is_said(card: Card) -> None:
    few = [photo(seed, grey=True) for seed in range(unknown.MIN_IMAGES - 1)]
    assert told(card, few, unknown=len(few)).score_caveats() == ()


def test_a_classifier_of_before_says_what_it_can(card: Card) -> None:
    old = replace(card, data={})
    found = told(old, [photo(seed, grey=True) for seed in range(COUNT)], unknown=COUNT)
    assert (found.unlike, found.looks, found.classes) == (True, (), {})


# --- all the way ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in colour, for training, and the same images in grey."""
    root = tmp_path_factory.mktemp("sets")
    for at in range(30):
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            pixels = photo(at) // 3 + np.array(colour, np.uint8) // 2
            drawn = Image.fromarray(pixels.astype(np.uint8))
            for kind, image in (("colour", drawn), ("grey", ImageOps.grayscale(drawn))):
                (root / kind / name).mkdir(parents=True, exist_ok=True)
                image.save(root / kind / name / f"{at}.png")
    return root


@pytest.fixture(scope="module")
def classifier(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = tmp_path_factory.mktemp("made") / "model"
    graft.fit(sets / "colour", folder, offline=True, report=False)
    return graft.load(folder)


@pytest.mark.slow
def test_a_saved_classifier_says_so_first_of_a_score(classifier: Classifier, sets: Path) -> None:
    grey, colour = classifier.evaluate(sets / "grey"), classifier.evaluate(sets / "colour")
    assert grey.caveats()[0].startswith("these images are unlike the training images: ")
    assert "less colourful" in grey.caveats()[0]
    assert colour.trust.shift is not None
    assert (colour.trust.shift.unlike, colour.trust.shift.looks) == (False, ())


@pytest.mark.slow
def test_and_before_the_answers_in_memory_and_in_a_file(classifier: Classifier, sets: Path, tmp_path: Path) -> None:
    _, care = predict.predict_with_warnings(classifier, [sets / "grey"])
    written = predict.write(classifier, [sets / "grey"], tmp_path / "answers.csv")
    assert care == written.careful
    assert "less colourful" in care[0]
    assert predict.predict_with_warnings(classifier, [sets / "colour"])[1] == ()
