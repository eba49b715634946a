"""Unknown images and distribution shift: whether images are like those that a classifier was trained on."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones.graph import normalise_rows
from graft.data import dataset as table
from graft.data.dataset import Dataset, decode_pixels
from graft.data.image_stats import TRAITS, ImageStats, build_image_stats, measure_image
from graft.metrics.intervals import wilson_interval
from graft_runtime.card import Card
from graft_runtime.decide import find_finite_rows, unknown_threshold
from graft_runtime.formatting import join_with_and
from graft_runtime.image import ImageError
from graft_runtime.prediction import Prediction

NEIGHBOURS = 5
MAX_FEATURE_BYTES = 32 << 20  # bytes of training features that a classifier may carry
MOST_LEFT_OUT = 4096  # held-out images by which the threshold is found


@dataclass(frozen=True, eq=False)
class NeighbourMatches:
    """Unknown score of each image, [n], and the nearest known images, [n, at most NEIGHBOURS], with cosines."""

    scores: NDArray[np.float32]
    indices: NDArray[np.intp]
    cosines: NDArray[np.float32]

    def take(self, rows: NDArray[np.bool_]) -> NeighbourMatches:
        """Some of the images."""
        return NeighbourMatches(self.scores[rows], self.indices[rows], self.cosines[rows])


@dataclass(frozen=True, eq=False)
class KnownImages:
    """Stored training images: `features` [k, d] of length 1, `labels`, `names`.

    `strays` are the sorted scores of held-out images. Without features the score is the energy of
    the logits (Liu et al. 2020), for so many classes that one image of each would not find room.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.integer]
    names: tuple[str, ...]
    strays: NDArray[np.float32]

    def find_neighbours(
        self, features: NDArray[np.floating], logits: NDArray[np.floating], multilabel: bool
    ) -> NeighbourMatches:
        """The score of images by their features [n, d] or, where none are kept, their logits [n, classes]."""
        if not len(self.features):
            none = np.zeros((len(logits), 0))
            return NeighbourMatches(energy_scores(logits, multilabel), none.astype(np.intp), none.astype(np.float32))
        return nearest_neighbours(self.features, features)

    def unknown_threshold(self, rate: float) -> float:
        """The score above which this share of the images of known classes lies at most; inf if it cannot be told."""
        return unknown_threshold(self.strays, rate)


def reference_layers(card_entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers that images are compared by, as a card describes it; none for the last one that the head reads."""
    before = card_entry.get("layer")  # as earlier versions wrote it
    return tuple(card_entry.get("layers") or ([before] if before else []))


def nearest_neighbours(
    stored: NDArray[np.float16], features: NDArray[np.floating], apart: NDArray[np.bool_] | None = None
) -> NeighbourMatches:
    """The nearest stored rows; `apart` [n, stored] marks pairs that do not count. Without any, the score is nan."""
    cosines = normalise_rows(features) @ stored.T.astype(np.float32)
    if apart is not None:
        cosines[apart] = -np.inf
    few = min(NEIGHBOURS, len(stored))
    which = _top_columns(cosines, few)
    best = np.take_along_axis(cosines, which, axis=1)
    counted = np.isfinite(best)
    total = np.where(counted, best, 0).sum(axis=1)
    scores = np.where(counted.any(axis=1), 1 - total / np.maximum(counted.sum(axis=1), 1), np.nan)
    return NeighbourMatches(scores.astype(np.float32), which, best)


def _top_columns(values: NDArray[np.floating], few: int) -> NDArray[np.intp]:
    """The columns of the `few` largest of each row, largest first."""
    some = np.argpartition(-values, few - 1, axis=1)[:, :few]
    order = np.argsort(-np.take_along_axis(values, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def energy_scores(logits: NDArray[np.floating], multilabel: bool) -> NDArray[np.float32]:
    """Higher for stranger images; of several labels the sum over them (Wang et al. 2021). nan without a number."""
    good = find_finite_rows(logits)
    wide = np.where(good[:, None], np.asarray(logits, np.float64), 0)
    free = np.logaddexp(0, wide).sum(axis=1) if multilabel else np.logaddexp.reduce(wide, axis=1)
    return np.where(good, -free, np.nan).astype(np.float32)


def max_stored_images(width: int) -> int:
    """How many training images a classifier carries, at most."""
    return MAX_FEATURE_BYTES // (2 * width)


def select_rows(labels: NDArray[np.integer], most: int) -> NDArray[np.intp]:
    """At most so many rows, the large classes cut to one size; of several labels every so-manieth row."""
    if len(labels) <= most:
        return np.arange(len(labels))
    if labels.ndim == 2:
        return np.linspace(0, len(labels) - 1, most).astype(np.intp)
    place = np.empty(len(labels), np.intp)  # of each row within its class
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[own] = np.arange(len(own))
    return np.sort(np.argsort(place, kind="stable")[:most])


def heldout_scores(
    stored: NDArray[np.float16],
    groups: NDArray[np.integer],
    heldout_features: NDArray[np.floating],
    own: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Sorted scores of left-out features [q, d], each judged without the stored images of its own group."""
    found = [
        nearest_neighbours(stored, heldout_features[at : at + 512], own[at : at + 512, None] == groups[None]).scores
        for at in range(0, len(heldout_features), 512)
    ]
    scores = np.concatenate([np.empty(0, np.float32), *found])
    return np.sort(scores[~np.isnan(scores)])


# --- distribution shift -----------------------------------------------------------------------------------------------

# Answers, change of a class's share, and standard errors of it, from which on a change is reported.
MIN_ANSWERS, MIN_SHARE_CHANGE, STANDARD_ERRORS = 50, 0.25, 4.0

MIN_IMAGES = 20  # below which no shift is reported
MOST_COMPARED = 200  # images whose pixels are compared, at most
UNKNOWN_FACTOR = 2.0  # how often as many must be unknown as were allowed for, at the lower end of the interval
MIN_TRAIT_SHIFT = 0.75  # standard deviations of the training images by which the mean of a trait must differ
_TRAIT_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "colour": ("less colourful", "more colourful"),
    "detail": ("less sharp", "of more fine detail"),
    "white": ("less white", "whiter"),
}


@dataclass(frozen=True)
class Shift:
    """How images differ from the training ones.

    `unknown` is the share of them called unknown, None where it cannot be told, and `rate` the share allowed for;
    `unlike` whether that is far more. `looks` are words about their pixels; `classes` has the shares of answers and of
    training images for those classes in which they differ most. `before` is the score on images like the training ones.
    """

    count: int
    unknown: float | None
    rate: float
    unlike: bool
    looks: tuple[str, ...] = ()
    classes: dict[str, tuple[float, float]] = field(default_factory=dict)
    before: float | None = None

    def score_caveats(self) -> tuple[str, ...]:
        """What to know before believing a score of these images; nothing where nothing differs."""
        was = "" if self.before is None else f"; on images like the training ones it was {self.before:.1%}"
        return self._sentences(f". The score is about such images{was}")

    def answer_caveats(self) -> tuple[str, ...]:
        """What to know before believing the answers."""
        return self._sentences(
            ". Fewer answers are right than their probabilities say: label some, and ask graft evaluate"
        )

    def _sentences(self, meaning: str) -> tuple[str, ...]:
        they = f"they are {join_with_and(self.looks)}" if self.looks else ""
        sentences = list[str]()
        if self.unlike:
            share = f"{self.unknown:.1%} of them are called unknown, where {self.rate:.0%} were allowed for"
            sentences.append(
                "; ".join(filter(None, [f"these images are unlike the training images: {share}", they])) + meaning
            )
        elif they:
            sentences.append(f"these images differ from the training images: {they}{meaning}")
        if self.classes:
            listed = ", ".join(
                f"{now:.0%} {name}, {then:.0%} in training" for name, (now, then) in self.classes.items()
            )
            sentences.append(
                f"the answers are spread over the classes in another way than the training images: {listed}"
            )
        return tuple(sentences)


def summarise_training(
    looks: ImageStats, rows: NDArray[np.intp], labels: NDArray[np.integer], classes: int
) -> dict[str, Any]:
    """What a card keeps of training images, `rows` of the looks: each trait's mean and deviation, shares of classes."""
    traits = {name: column[rows] for name, column in looks.trait_values.items()} if len(looks) else {}
    shares = table.count_labels(labels, classes) / max(len(labels), 1)
    return {
        "traits": {name: [round(float(of(column)), 4) for of in (np.mean, np.std)] for name, column in traits.items()},
        "shares": [round(float(share), 6) for share in shares],
    }


def sample_image_stats(data: Dataset, enough: int) -> ImageStats:
    """Compute image stats of at most MOST_COMPARED images, evenly spread, decoded with `enough` pixels a side.

    Unreadable images are skipped.
    """
    found = []
    for row in np.unique(np.linspace(0, len(data) - 1, min(MOST_COMPARED, len(data))).astype(int)).tolist():
        try:
            raw = data.read(row)
            found.append(measure_image(raw, decode_pixels(raw, enough)))
        except (ImageError, OSError):
            continue
    return ImageStats(build_image_stats(found) if found else np.zeros((0, 0), np.float32))


class AnswerCounter:
    """Count predictions as they come, a few bytes each: the class, and whether unknown."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._number = {name: at for at, name in enumerate(card.classes)}
        self._labels, self._strange = array("i"), bytearray()

    def add(self, each: Prediction) -> None:
        """Count one prediction; one with a fault does not count."""
        if not each.fault:
            self._strange.append(each.unknown)
            self._labels.append(self._number[each.labels[0]] if len(each.labels) == 1 else -1)

    def record(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield the same predictions, counting each."""
        for each in predictions:
            self.add(each)
            yield each

    def compute_shift(self, rate: float, data: Dataset) -> Shift:
        """The shift of these images, where `rate` of those of known classes were allowed to be called unknown."""
        labels = np.asarray(self._labels, np.intp)
        can_tell = bool(rate) and self.card.unknown.get("limit") is not None
        strange = np.asarray(self._strange, bool) if can_tell else None
        return measure_shift(self.card, len(labels), strange, rate, labels[labels >= 0], data)


def measure_shift(
    card: Card,
    count: int,
    strange: NDArray[np.bool_] | None,
    rate: float,
    answers: NDArray[np.integer],
    data: Dataset,
) -> Shift:
    """The shift of `count` images, some of them called unknown, with these answers (rows of the card's classes)."""
    unknown = None if strange is None or not count else float(strange.mean())
    before = card.metrics.get("accuracy", card.metrics.get("mean_average_precision"))
    if count < MIN_IMAGES:
        return Shift(count, unknown, rate, unlike=False, before=before)
    unlike = strange is not None and wilson_interval(int(strange.sum()), count)[0] > UNKNOWN_FACTOR * rate
    traits = card.data.get("traits", {})
    looks = _describe_differences(traits, sample_image_stats(data, card.enough)) if traits else ()
    spread = _find_changed_shares(card.classes, card.data.get("shares", ()), answers)
    return Shift(count, unknown, rate, unlike, looks, spread, before)


def _describe_differences(traits: Mapping[str, Sequence[float]], looks: ImageStats) -> tuple[str, ...]:
    """Return words for the traits that differ, the largest difference first."""
    if len(looks) < MIN_IMAGES:
        return ()
    now, differences = looks.trait_values, list[tuple[float, str]]()
    for name in (name for name in TRAITS if name in traits):
        mean, deviation = traits[name]
        far = (float(now[name].mean()) - mean) / max(deviation, 1e-6)
        error = float(now[name].std()) / np.sqrt(len(looks)) / max(deviation, 1e-6)
        if abs(far) > MIN_TRAIT_SHIFT + STANDARD_ERRORS * error:
            differences.append((-abs(far), _TRAIT_WORDS[name][int(far > 0)]))
    return tuple(word for _, word in sorted(differences))


def _find_changed_shares(
    classes: Sequence[str], shares: Sequence[float], answers: NDArray[np.integer]
) -> dict[str, tuple[float, float]]:
    """The classes whose share among the answers is far from that among the training images: (now, then)."""
    if len(shares) != len(classes) or len(answers) < MIN_ANSWERS:
        return {}
    now, then = np.bincount(answers, minlength=len(classes)) / len(answers), np.asarray(shares)
    error = np.sqrt(np.maximum(then * (1 - then), 1e-4) / len(answers))
    far = np.flatnonzero(np.abs(now - then) > np.maximum(MIN_SHARE_CHANGE, STANDARD_ERRORS * error))
    order = far[np.argsort(-(now - then)[far], kind="stable")][:3]  # classes predicted too often first
    return {str(classes[at]): (float(now[at]), float(then[at])) for at in order.tolist()}
