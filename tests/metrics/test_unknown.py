"""Unknown images and distribution shift."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors

import graft
from graft.backbones.graph import normalise_rows
from graft.data.dataset import from_arrays
from graft.data.image_stats import ImageStats, build_image_stats, measure_image
from graft.jobs import predict
from graft.metrics import unknown
from graft.metrics.unknown import (
    AnswerCounter,
    KnownImages,
    Shift,
    energy_scores,
    heldout_scores,
    max_stored_images,
    nearest_neighbours,
    select_rows,
    summarise_training,
)
from graft.model.classifier import Classifier
from graft_runtime.card import Card
from graft_runtime.decide import Answer
from graft_runtime.prediction import Prediction

RANDOM = np.random.default_rng(0)


def known(features: np.ndarray, found: np.ndarray) -> KnownImages:
    names = tuple(f"{at}.jpg" for at in range(len(features)))
    return KnownImages(normalise_rows(features).astype(np.float16), np.zeros(len(features), np.int32), names, found)


def test_the_score_is_one_less_the_mean_cosine_to_the_five_nearest() -> None:
    stored, asked = RANDOM.standard_normal((60, 16)), RANDOM.standard_normal((9, 16))
    near = nearest_neighbours(normalise_rows(stored).astype(np.float16), asked)
    distance, which = NearestNeighbors(n_neighbors=5, metric="cosine").fit(stored).kneighbors(asked)
    np.testing.assert_allclose(near.scores, distance.mean(axis=1), atol=2e-3)  # 16 bits
    np.testing.assert_array_equal(near.indices, which)
    np.testing.assert_allclose(near.cosines, 1 - distance, atol=2e-3)


def test_fewer_images_than_five_are_all_nearest() -> None:
    near = nearest_neighbours(normalise_rows(np.eye(3)).astype(np.float16), np.array([[2.0, 0, 0]]))
    assert near.indices[0, 0] == 0
    assert near.scores[0] == pytest.approx(1 - 1 / 3, abs=1e-3)


def test_a_left_out_image_is_judged_without_its_own_group() -> None:
    stored = RANDOM.standard_normal((40, 8))
    groups = np.arange(40) // 2  # twins
    found = heldout_scores(normalise_rows(stored).astype(np.float16), groups, stored, groups)
    by_hand = []
    for row in range(40):
        cosines = np.sort(normalise_rows(stored[groups != groups[row]]) @ normalise_rows(stored[row : row + 1])[0])[-5:]
        by_hand.append(1 - cosines.mean())
    np.testing.assert_allclose(found, np.sort(by_hand), atol=2e-3)
    alone = heldout_scores(normalise_rows(stored).astype(np.float16), np.zeros(40, int), stored, np.zeros(40, int))
    assert len(alone) == 0  # one group: nothing to be judged by


def test_at_most_the_stated_share_of_fresh_images_lies_beyond_the_limit() -> None:
    shares = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        held_out, fresh = np.sort(random.standard_normal(200)), random.standard_normal(2000)
        shares.append((fresh > known(np.eye(2), held_out.astype(np.float32)).unknown_threshold(0.05)).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=0.005)
    assert np.mean(shares) <= 0.05 + 2 * np.std(shares) / math.sqrt(200)


@pytest.mark.parametrize(("count", "rate", "at"), [(19, 0.05, 18), (18, 0.05, None), (100, 0.0, None), (99, 0.5, 49)])
def test_the_limit_is_an_order_statistic_or_there_is_none(count: int, rate: float, at: int | None) -> None:
    found = np.arange(count, dtype=np.float32)
    assert known(np.eye(2), found).unknown_threshold(rate) == (math.inf if at is None else found[at])


def test_the_energy_is_that_of_the_logits_and_of_several_labels_the_sum() -> None:
    logits = RANDOM.standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(energy_scores(logits, False), -logsumexp(logits, axis=1), rtol=1e-6)
    np.testing.assert_allclose(energy_scores(logits, True), -np.log1p(np.exp(logits)).sum(axis=1), rtol=1e-5)
    without = KnownImages(np.empty((0, 3), np.float16), np.empty(0, np.int32), (), np.empty(0, np.float32))
    near = without.find_neighbours(np.zeros((5, 3)), logits, False)
    np.testing.assert_array_equal(near.scores, energy_scores(logits, False))
    assert near.indices.shape == (5, 0)


def test_large_classes_are_cut_to_one_size_and_small_ones_kept() -> None:
    labels = np.repeat([0, 1, 2], [1000, 50, 3])
    kept = select_rows(labels, 120)
    assert np.bincount(labels[kept]).tolist() == [67, 50, 3]
    assert len(select_rows(labels, 5000)) == 1053
    assert len(select_rows(np.ones((300, 2), np.uint8), 100)) == 100
    assert max_stored_images(1280) * 1280 * 2 <= 32 << 20


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
