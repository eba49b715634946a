"""A classifier's report: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup

from graft.data.dataset import Dataset, digest
from graft.data.read.source import read_source
from graft.errors import DataError, ModelError
from graft.jobs import outputs
from graft.jobs.report import commands, figures
from graft.jobs.report.answers import Answers
from graft.jobs.report.shown import SUREST, Shown, shown
from graft.model import pictures
from graft.model.classifier import Classifier, load
from graft.model.spans import span
from graft.progress import Watch, unwatched

MATRIX = 24  # classes, above which the matrix is a list of what is confused most
PAIRS = 20
SLIDERS = 400_000  # probabilities that the sliders may hold, one byte each
BEGINNING = "<!doctype html>\n<!-- graft report -->"


def report(
    classifier: str | Path | Classifier,
    output: str | Path,
    photos: Any = None,
    *,
    columns: str = "",
    force: bool = False,
    watch: Watch = unwatched,
) -> Path:
    """Write the report of a saved classifier: how good it is, where it fails, whether its probabilities can be trusted.

    `photos` is where its test pictures lie, to show them: they are found again by their content. `graft fit` writes the
    same into the classifier's folder.

    Raises ModelError for a damaged classifier, DataError for one that remembers no test pictures, or photos with none
    of them, and OutputError rather than overwrite a file, or, with `force`, one that graft did not write.

    >>> import graft
    >>> graft.report("model/", "report.html", "photos/")  # doctest: +SKIP
    PosixPath('report.html')
    """
    judge, place = classifier if isinstance(classifier, Classifier) else load(classifier), Path(output)
    outputs.check(place, outputs.beginning(BEGINNING), force=force)
    source = None if photos is None else read_source(photos, columns=columns, watch=watch)
    home = None if isinstance(classifier, Classifier) else classifier
    told = commands.words(photos, columns=columns)
    try:
        text = page(judge, source, watch, told, home)
    except (UndefinedError, AttributeError, KeyError, TypeError) as error:
        which = "this classifier" if isinstance(classifier, Classifier) else classifier
        raise ModelError(f"The report.json of {which} is not what graft wrote: {error}. Train it again.") from error
    outputs.write(place, text.encode())
    return place


def page(
    classifier: Classifier,
    source: Dataset | None = None,
    watch: Watch = unwatched,
    told: str = "",
    home: str | Path | None = None,
) -> str:
    """The report as HTML, with the pictures that `source` holds of those that the classifier was tested on.

    `told` is the source as the command line takes it, `home` the folder of the classifier: for the commands to go on
    with, which are left out where these are not known.
    """
    exam = classifier.memory.tested if classifier.memory else None
    if exam is None or not classifier.report.get("evaluation"):
        raise DataError("This classifier remembers no test pictures, so there is nothing to report. Train it anew.")
    answers = Answers.of(classifier, exam)
    seen = Shown() if source is None else shown(classifier, answers, source, _found(answers, source, watch), watch)
    return _template().render(
        card=classifier.card,
        report=classifier.report,
        score=classifier.report["evaluation"],
        data=classifier.report["data"],
        answers=answers,
        seen=seen,
        chance=_largest(answers),
        matrix=_matrix(answers),
        pairs=_pairs(answers),
        troubled=_troubled(classifier.report["evaluation"]["classes"]),
        mistakes=answers.surest(SUREST),
        limit=_limit(classifier),
        figures=figures,
        told=told,
        again=commands.again(told, home),
        beginning=Markup(BEGINNING),
        style=Markup(_part("style.css")),
        script=Markup(_part("page.js")),
        facts=Markup(_facts(answers, seen)),
    )


def _found(answers: Answers, source: Dataset, watch: Watch) -> dict[int, int]:
    """Where in the source each test picture is, by content."""
    if tuple(source.names()) == answers.exam.names:
        return {row: row for row in range(len(source))}
    rows = {each.tobytes(): row for row, each in enumerate(answers.exam.digests)}
    found: dict[int, int] = {}
    for picture in pictures.each(source, digest, watch):
        if picture.made in rows:
            found[rows[picture.made]] = picture.row
    if not found:
        raise DataError(f"Not one of the {len(answers):,} test pictures of this classifier is in {source.root}.")
    return found


def _largest(answers: Answers) -> float | None:
    """What always answering the commonest class would score."""
    return None if answers.several else float(answers.truth.sum(axis=0).max() / len(answers))


def _limit(classifier: Classifier) -> float | None:
    """The score from which on a picture is unknown."""
    limit = classifier.card.unknown.get("limit")
    return float(limit) if limit is not None and np.isfinite(limit) else None


def _matrix(answers: Answers) -> list[list[int]]:
    """Pictures of each class by answer; empty with several labels, or too many classes to look at."""
    count = len(answers.classes)
    if answers.several or count > MATRIX:
        return []
    cells = np.bincount(answers.exam.labels * count + answers.said, minlength=count * count)
    return cells.reshape(count, count).tolist()


def _pairs(answers: Answers) -> list[tuple[str, str, int]]:
    """What is confused most: (what it is, what was answered, how often)."""
    counts = Counter(answers.words(row) for row in np.flatnonzero(~answers.right).tolist())
    return [(*pair, count) for pair, count in counts.most_common(PAIRS)]


def _troubled(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The classes by trouble; those without a test picture last."""
    return sorted(classes, key=lambda each: (each["f1"] is None, each["f1"] or 0.0))


def _facts(answers: Answers, seen: Shown) -> str:
    """What the script needs, as JSON that cannot end the element it stands in."""
    slides = len(answers) * len(answers.classes) <= SLIDERS
    facts = {
        "pictures": [
            [answers.exam.names[row], *answers.words(row), round(float(answers.sure[row]), 3), source]
            for row, source in seen.small.items()
        ],
        "classes": answers.classes,
        "several": answers.several,
        "sure": [] if answers.several else [round(float(each), 3) for each in answers.sure],
        "right": answers.right.astype(int).tolist(),
        "chances": (answers.chances * 255).round().astype(int).T.tolist() if slides else [],
        "truth": [np.flatnonzero(column).tolist() for column in answers.truth.T] if slides else [],
    }
    return json.dumps(facts, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@cache
def _template() -> Any:
    house = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    house.filters |= {"percent": _percent, "seconds": _seconds, "span": span}
    return house.from_string(_part("page.html"))


@cache
def _part(name: str) -> str:
    return (files("graft.jobs.report") / name).read_text(encoding="utf-8")


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
