"""HTML report of a classifier, in one self-contained file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from shlex import join
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup

from graft.data.dataset import Dataset, compute_digest
from graft.data.readers.source import read_source
from graft.errors import DataError, ModelError
from graft.features import loading
from graft.jobs import outputs
from graft.jobs.report import figures
from graft.jobs.report.answers import MAX_LARGE_MISTAKES, ReportImages, ReportPredictions, render_images
from graft.model.classifier import Classifier, load
from graft.model.history import describe_phase
from graft.progress import ProgressWrapper, no_progress

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
    for image in loading.load_each(source, compute_digest, watch):
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
