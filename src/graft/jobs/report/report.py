"""HTML report of a classifier in one self-contained file: its scores, and its test images with their predictions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from os import PathLike
from pathlib import Path
from shlex import join
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup
from numpy.typing import NDArray

from graft.data.dataset import Dataset, compute_digest, decode_pixels
from graft.data.readers.source import read_source
from graft.errors import DataError, ModelError
from graft.features.embed import load_each
from graft.jobs import outputs
from graft.jobs.report import figures
from graft.model.classifier import Classifier, load
from graft.model.explain import draw_saliency, saliency_maps
from graft.model.history import describe_phase
from graft.model.memory import EvaluationRecord
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import DEFAULT_THRESHOLD
from graft_runtime.formatting import join_names
from graft_runtime.thumbnail import make_thumbnail

MAX_MATRIX_CLASSES = 24  # above, the confusion matrix is a list of the most frequent confusions
MAX_CONFUSED_PAIRS = 20
MAX_SLIDER_VALUES = 400_000  # probabilities of the threshold slider, which needs all of them
SIGNATURE = "<!doctype html>\n<!-- graft report -->"


def report(
    classifier: str | Path | Classifier,
    output: str | Path,
    photos: Any = None,
    *,
    columns: str = "",
    force: bool = False,
    watch: ProgressWrapper = no_progress,
) -> Path:
    """Write the report of a saved classifier: its scores, its mistakes, and how well it is calibrated.

    `photos` holds its test images, to show them: they are found by their content. `graft fit` writes the same report
    into the classifier's folder.

    Raises ModelError for a damaged classifier, DataError for one without stored test predictions, or photos without
    test images, and OutputError for a file that exists or, with `force`, one that graft did not write.

    >>> import graft
    >>> graft.report("model/", "report.html", "photos/")  # doctest: +SKIP
    PosixPath('report.html')
    """
    loaded, place = classifier if isinstance(classifier, Classifier) else load(classifier), Path(output)
    outputs.check_output(place, outputs.build_prefix_check(SIGNATURE), force=force)
    source = None if photos is None else read_source(photos, columns=columns, watch=watch)
    home = None if isinstance(classifier, Classifier) else classifier
    source_args = source_arguments(photos, columns=columns)
    try:
        text = render_report(loaded, source, watch, source_args, home)
    except (UndefinedError, AttributeError, KeyError, TypeError) as error:
        which = "this classifier" if isinstance(classifier, Classifier) else classifier
        raise ModelError(f"The report.json of {which} is not what graft wrote: {error}. Train it again.") from error
    outputs.write(place, text.encode())
    return place


def render_report(
    classifier: Classifier,
    source: Dataset | None = None,
    watch: ProgressWrapper = no_progress,
    source_args: str = "",
    home: str | Path | None = None,
) -> str:
    """Render the report as HTML, with the test images that are in `source`.

    `source_args` are the source's command-line arguments, `home` is the classifier's folder: for the commands that the
    report suggests, which are left out where these are unknown.
    """
    exam = classifier.memory.tested if classifier.memory else None
    if exam is None or not classifier.report.get("evaluation"):
        raise DataError("This classifier remembers no test images, so there is nothing to report. Train it anew.")
    answers = ReportPredictions.from_classifier(classifier, exam)
    report_images = (
        ReportImages()
        if source is None
        else render_images(classifier, answers, source, _locate_test_images(answers, source, watch), watch)
    )
    return _load_template().render(
        card=classifier.card,
        report=classifier.report,
        score=classifier.report["evaluation"],
        data=classifier.report["data"],
        answers=answers,
        seen=report_images,
        chance=_majority_accuracy(answers),
        matrix=_confusion_matrix(answers),
        pairs=_confused_pairs(answers),
        troubled=_sort_by_f1(classifier.report["evaluation"]["classes"]),
        mistakes=answers.most_confident_mistakes(MAX_LARGE_MISTAKES),
        limit=_unknown_limit(classifier),
        figures=figures,
        told=source_args,
        again=fit_command(source_args, home),
        beginning=Markup(SIGNATURE),
        style=Markup(_read_asset("style.css")),
        script=Markup(_read_asset("page.js")),
        facts=Markup(_page_data(answers, report_images)),
    )


def _locate_test_images(answers: ReportPredictions, source: Dataset, watch: ProgressWrapper) -> dict[int, int]:
    """Map the rows of the test images to rows of the source, by content."""
    if tuple(source.names()) == answers.exam.names:  # called by `fit` and `update` with the test images themselves
        return {row: row for row in range(len(source))}
    rows = {each.tobytes(): row for row, each in enumerate(answers.exam.digests)}
    found: dict[int, int] = {}
    for image in load_each(source, compute_digest, watch):
        if image.value in rows:
            found[rows[image.value]] = image.row
    if not found:
        raise DataError(f"Not one of the {len(answers):,} test images of this classifier is in {source.root}.")
    return found


def _majority_accuracy(answers: ReportPredictions) -> float | None:
    """Return the accuracy of always predicting the most frequent class; None for multilabel."""
    return None if answers.multilabel else float(answers.y_true.sum(axis=0).max() / len(answers))


def _unknown_limit(classifier: Classifier) -> float | None:
    """Return the score above which an image is unknown; None without one."""
    limit = classifier.card.unknown.get("limit")
    return float(limit) if limit is not None and np.isfinite(limit) else None


def _confusion_matrix(answers: ReportPredictions) -> list[list[int]]:
    """Return the confusion matrix, rows are true classes; [] for multilabel or too many classes."""
    count = len(answers.classes)
    if answers.multilabel or count > MAX_MATRIX_CLASSES:
        return []
    cells = np.bincount(answers.exam.labels * count + answers.y_pred, minlength=count * count)
    return cells.reshape(count, count).tolist()


def _confused_pairs(answers: ReportPredictions) -> list[tuple[str, str, int]]:
    """Return the most frequent confusions as (true label, predicted label, count)."""
    counts = Counter(answers.label_pair(row) for row in np.flatnonzero(~answers.is_correct).tolist())
    return [(*pair, count) for pair, count in counts.most_common(MAX_CONFUSED_PAIRS)]


def _sort_by_f1(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort the classes by F1, the worst first; those without a test image come last."""
    return sorted(classes, key=lambda each: (each["f1"] is None, each["f1"] or 0.0))


def _page_data(answers: ReportPredictions, report_images: ReportImages) -> str:
    """Return the data of the page's script as JSON, with '<' escaped so that it cannot end its element."""
    slides = len(answers) * len(answers.classes) <= MAX_SLIDER_VALUES
    facts = {
        "images": [
            [answers.exam.names[row], *answers.label_pair(row), round(float(answers.confidence[row]), 3), source]
            for row, source in report_images.small.items()
        ],
        "classes": answers.classes,
        "several": answers.multilabel,
        "sure": [] if answers.multilabel else [round(float(each), 3) for each in answers.confidence],
        "right": answers.is_correct.astype(int).tolist(),
        "chances": (answers.probs * 255).round().astype(int).T.tolist() if slides else [],
        "truth": [np.flatnonzero(column).tolist() for column in answers.y_true.T] if slides else [],
    }
    return json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def _load_template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "seconds": _seconds, "span": describe_phase}
    return environment.from_string(_read_asset("page.html"))


@cache
def _read_asset(name: str) -> str:
    return (files("graft.jobs.report") / name).read_text(encoding="utf-8")


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# --- commands that the report suggests --------------------------------------------------------------------------------


def source_arguments(source: Any, *, columns: str = "", against: Any = None, boxes: bool = False) -> str:
    """Return the arguments of `graft check` and `graft fit` for a source, with absolute paths; '' for no path."""
    if not isinstance(source, str | PathLike) or not (against is None or isinstance(against, str | PathLike)):
        return ""
    options = [
        *(["--against", _absolute_path(against)] if against else []),
        *(["--columns", columns] if columns else []),
    ]
    return join([_absolute_path(source), *options, *["--boxes"] * boxes])


def fit_command(source: str, folder: str | Path | None) -> str:
    """Return the command that trains a saved classifier again; '' where source or folder are unknown."""
    return (
        f"graft fit {source} -o again/ --from {join([_absolute_path(Path(folder) / 'model.json')])}"
        if source and folder
        else ""
    )


def _absolute_path(path: str | PathLike[str]) -> str:
    return str(Path(path).absolute())


# --- predictions on the test images -----------------------------------------------------------------------------------

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

    for image in load_each(source.take(rows), render, watch):
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
