"""Predictions of a classifier on its test images, and the images that its report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, decode_pixels
from graft.features import loading
from graft.model.classifier import Classifier
from graft.model.explain import draw_saliency, saliency_maps
from graft.model.memory import EvaluationRecord
from graft.progress import ProgressWrapper
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import DEFAULT_THRESHOLD
from graft_runtime.formatting import join_names
from graft_runtime.thumbnail import make_thumbnail

NO_LABEL = "(none)"  # what an image without a label shows
SIDE, LARGE = 112, 196  # pixels along the longer side of a thumbnail, and of a mistake that is shown large
MAX_THUMBNAILS = 400  # 3 kB each
MAX_WRONG_PER_CELL, MAX_RIGHT_PER_CELL = 12, 3  # of one pair of label and prediction
MAX_LARGE_MISTAKES = 12  # mistakes shown large, with their saliency maps


@dataclass(frozen=True, eq=False)
class ReportPredictions:
    """Stored predictions on the test images, for one label per image or multilabel."""

    exam: EvaluationRecord
    classes: tuple[str, ...]
    multilabel: bool
    thresholds: NDArray[np.float64]  # [classes], for multilabel

    @classmethod
    def from_classifier(cls, classifier: Classifier, exam: EvaluationRecord) -> ReportPredictions:
        """Return the predictions that a classifier has stored."""
        card = classifier.card
        limits = np.array(card.thresholds or [DEFAULT_THRESHOLD] * len(card.classes))
        return cls(exam, card.classes, card.task == MULTILABEL, limits)

    def __len__(self) -> int:
        return len(self.exam)

    @cached_property
    def y_pred(self) -> NDArray[np.intp] | NDArray[np.bool_]:
        """Predicted class [n], or for multilabel the predicted labels [n, classes]."""
        if self.multilabel:
            return self.probs >= self.thresholds
        best = self.exam.chances.argmax(axis=1)
        return np.take_along_axis(self.exam.columns, best[:, None], axis=1)[:, 0].astype(np.intp)

    @cached_property
    def is_correct(self) -> NDArray[np.bool_]:
        """Which predictions are correct, for multilabel in all labels, [n]."""
        if self.multilabel:
            return (self.y_pred == (self.exam.labels > 0)).all(axis=1)
        return self.y_pred == self.exam.labels

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of each prediction, [n]; for multilabel the largest error of a wrong label, 0 without any."""
        if self.multilabel:
            return np.where(self.y_pred != self.y_true, np.abs(self.probs - self.y_true), 0).max(axis=1)
        return self.exam.chances.max(axis=1)

    @cached_property
    def probs(self) -> NDArray[np.float32]:
        """Probability of every class [n, classes]; 0 where it was too small to be stored."""
        whole = np.zeros((len(self), len(self.classes)), np.float32)
        np.put_along_axis(whole, self.exam.columns, self.exam.chances, axis=1)
        return whole

    @cached_property
    def y_true(self) -> NDArray[np.bool_]:
        """True classes of each image as a mask, [n, classes]."""
        labels = self.exam.labels
        return labels > 0 if self.multilabel else labels[:, None] == np.arange(len(self.classes))

    def label_pair(self, row: int) -> tuple[str, str]:
        """Return (true label, predicted label) of an image."""
        if not self.multilabel:
            return self.classes[self.exam.labels[row]], self.classes[self.y_pred[row]]
        return self._join_labels(self.exam.labels[row]), self._join_labels(self.y_pred[row])

    @cached_property
    def no_label_text(self) -> str:
        """Text for no label, which no class has as its name."""
        text = NO_LABEL
        while text in self.classes:
            text = f"({text})"
        return text

    def most_confident_mistakes(self, most: int) -> list[int]:
        """Return the rows of wrong predictions, the most confident first."""
        wrong = np.flatnonzero(~self.is_correct)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most].tolist()

    def explained_class(self, row: int) -> int:
        """Return the class to explain: the predicted one, or for multilabel the label with the largest error."""
        if not self.multilabel:
            return int(self.y_pred[row])
        off = np.abs(self.probs[row] - self.y_true[row])
        return int(np.where(self.y_pred[row] != self.y_true[row], off, -1).argmax())

    def _join_labels(self, row: NDArray[np.generic]) -> str:
        return join_names([self.classes[at] for at in np.flatnonzero(row)]) or self.no_label_text


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportImages:
    """Data URIs by row of the test images: `small` thumbnails; of some also `large` ones and saliency maps."""

    small: dict[int, str] = field(default_factory=dict)
    large: dict[int, str] = field(default_factory=dict)
    saliency: dict[int, str] = field(default_factory=dict)


def render_images(
    classifier: Classifier,
    answers: ReportPredictions,
    source: Dataset,
    source_rows: Mapping[int, int],
    watch: ProgressWrapper,
) -> ReportImages:
    """Render the selected images; `source_rows` maps the rows of the test images found in `source` to its rows."""
    wanted = [row for row in select_images(answers) if row in source_rows]
    rows = np.array([source_rows[row] for row in wanted], np.intp)
    large = [row for row in answers.most_confident_mistakes(MAX_LARGE_MISTAKES) if row in source_rows]
    small: dict[int, str] = {}
    prepared_images: dict[int, NDArray[np.uint8]] = {}
    prepare = classifier.network.preprocess

    def render(raw: bytes | NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8]]:
        whole = decode_pixels(raw, prepare.decode_size)
        return make_thumbnail(whole, SIDE).uri, prepare.prepare(whole)

    for image in loading.load_each(source.take(rows), render, watch):
        if image.value:  # an image that can no longer be read is left out
            row = wanted[image.row]
            small[row] = image.value[0]
            if row in large:
                prepared_images[row] = image.value[1]
    return ReportImages(small, *_render_mistakes(classifier, answers, prepared_images))


def select_images(answers: ReportPredictions) -> list[int]:
    """Select the rows to show: the most confident of each pair of label and prediction, mistakes first."""
    order = np.argsort(-answers.confidence, kind="stable")
    wrong = [row for row in order.tolist() if not answers.is_correct[row]]
    right = [row for row in order.tolist() if answers.is_correct[row]]
    counts: dict[tuple[str, str], int] = {}
    found: list[int] = []
    for rows, most in ((wrong, MAX_WRONG_PER_CELL), (right, MAX_RIGHT_PER_CELL)):
        for row in rows:
            cell = answers.label_pair(row)
            counts[cell] = counts.get(cell, 0) + 1
            if counts[cell] <= most:
                found.append(row)
    return found[:MAX_THUMBNAILS]


def _render_mistakes(
    classifier: Classifier, answers: ReportPredictions, prepared_images: Mapping[int, NDArray[np.uint8]]
) -> tuple[dict[int, str], dict[int, str]]:
    """Render the most confident mistakes as the network received them, and with their saliency maps."""
    large: dict[int, str] = {}
    saliency: dict[int, str] = {}
    for row, prepared in prepared_images.items():
        image = np.ascontiguousarray(prepared.transpose(1, 2, 0))
        large[row] = make_thumbnail(image, LARGE).uri
        maps = saliency_maps(classifier.network, prepared[None], [answers.explained_class(row)], answers.multilabel)
        saliency[row] = make_thumbnail(draw_saliency(image, maps[0]), LARGE).uri
    return large, saliency
