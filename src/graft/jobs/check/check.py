"""Data set checks before training, with shortcuts, and the cleaned list of files that `graft check --fix` writes."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import extras
from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.features import build_probe_features
from graft.backbones.weights import resolve_weights_file
from graft.data.classes import find_class_problems
from graft.data.dataset import SPLITS, TEST, UNSPLIT, VALID, Dataset
from graft.data.duplicates import (
    NO_PARTNER,
    NearDuplicates,
    find_duplicate_problems,
    find_near_duplicates,
    join_user_groups,
)
from graft.data.image_stats import ImageStats
from graft.data.images import ImageFiles, TableFolder
from graft.data.quality import Finding, find_odd_images, find_unreadable, format_count, single_cases, sort_by_severity
from graft.data.readers.source import read_source
from graft.data.readers.tables import build_table_dataset, parse_cells
from graft.data.split import assign_folds
from graft.errors import DataError, UsageError
from graft.features.embed import Embeddings, ImageScan, compute_image_stats, embed
from graft.heads.choose import choose_head
from graft.jobs import outputs
from graft.jobs.check import gallery
from graft.metrics.calibration import fit_temperature
from graft.model.label_errors import LabelErrors, find_label_errors, find_outliers
from graft.progress import ProgressWrapper, no_progress
from graft.training.material import FOLDS, Findings, Material, check_labelled, format_labels
from graft_runtime.card import MULTICLASS
from graft_runtime.decide import compute_probabilities

ScanResult = Embeddings | ImageScan
SIGNATURE = "file,label,"  # first columns of a cleaned list, by which graft knows its own


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Result of `check`: `findings` on `data`, the most severe first; `usable` are the rows that can be decoded.

    `near_duplicates` has an entry for each usable row. `label_errors` maps the row of each label that is likely wrong
    to the label suggested instead.
    """

    data: Dataset
    usable: NDArray[np.intp]
    findings: list[Finding]
    near_duplicates: NearDuplicates | None
    label_errors: dict[int, str]
    shortcuts: list[Shortcut]
    seconds: float

    def __repr__(self) -> str:
        return f"<Report on {self.data!r}: {format_count(len(self.findings), 'finding')}>"

    def _repr_html_(self) -> str:
        return gallery.render_preview(self.data, self.findings)

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame with a row for each image of a finding, the most severe finding first.

        Columns are `finding` (its kind), `severity`, `case` (images of one case belong together), `file` (None for a
        finding about the whole set) and `detail`. Raises UsageError where pandas is not installed.
        """
        pandas = extras.import_optional("pandas", "CheckReport.to_dataframe")
        rows = [
            (finding.kind, finding.severity, case, name, detail)
            for finding in self.findings
            for case, name, detail in _finding_rows(finding, self.data)
        ]
        return pandas.DataFrame(rows, columns=["finding", "severity", "case", "file", "detail"])

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain values for JSON."""
        names, good = self.data.names(), self.data.take(self.usable)
        parts = np.bincount(self.data.split, minlength=len(SPLITS)).tolist()
        return {
            "source": self.data.root,
            "images": len(self.data),
            "usable": len(self.usable),
            "task": self.data.task,
            "classes": dict(zip(self.data.classes, good.counts().tolist(), strict=True)),
            "parts": {name or "undecided": count for name, count in zip(SPLITS, parts, strict=True) if count},
            "columns": self.data.columns,
            "ignored": dict(self.data.ignored),
            "shortcuts": [asdict(each) for each in self.shortcuts],
            "findings": [each.as_dict(names) for each in self.findings],
            "seconds": round(self.seconds, 3),
        }

    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Write an HTML file that shows the images of each finding. Raises OutputError rather than overwrite."""
        gallery.write(gallery.render_page(self.data, self.findings, self.as_dict()), Path(path), force=force)


def _finding_rows(finding: Finding, data: Dataset) -> Iterator[tuple[int, str | None, str]]:
    """Yield (number of the case, file or name of the image, detail) of a finding."""
    if not len(finding.cases):
        yield 0, None, finding.says
    for case, rows in enumerate(finding.cases.tolist()):
        for row in rows:
            yield case, data.path(row) or data.name(row), finding.notes[case] if finding.notes else ""


def check(
    source: Any,
    *,
    against: Any = None,
    backbone: str = catalog.DEFAULT,
    weights: str | Path | None = None,
    offline: bool = False,
    columns: str = "",
    boxes: bool = False,
    quick: bool = False,
    seed: int = 0,
    watch: ProgressWrapper = no_progress,
) -> CheckReport:
    """Check a data set for faults that inflate scores, break training or cost accuracy. The source is not changed.

    Finds files that cannot be read, copies and near-duplicates (across a split, under different labels), odd images,
    small and imbalanced classes, label errors, outliers, and shortcuts: classes that size or colour alone give away.
    `source`, `against`, `columns` and `boxes` are as in `graft.fit`. Features are cached, so a later `fit` is faster.
    `quick` uses no network: near-duplicates are found by perceptual hashes alone, label errors and outliers not at all.

    Raises GraftError as `fit` does for a source that cannot be read; findings are in the report.

    >>> import graft
    >>> [finding.says for finding in graft.check("photos/").findings]  # doctest: +SKIP
    ['2 images have a near-duplicate in another part of your split: the score flatters']
    """
    start = time.monotonic()
    data = read_source(source, columns=columns, boxes=boxes, against=against, watch=watch)
    check_labelled(data)
    frozen = None if quick else build_probe_features(load_backbone(backbone, resolve_weights_file(weights), offline))
    seen = embed(frozen, data, seed=seed, watch=watch) if frozen else compute_image_stats(data, watch=watch)
    features = seen if isinstance(seen, Embeddings) else None
    good = data.take(seen.rows)
    duplicates = (
        find_near_duplicates(features, seen.digests, seen.hashes, good.labels, good.split, watch) if len(good) else None
    )
    groups = join_user_groups(duplicates.groups, good.groups) if duplicates else np.zeros(0, np.int64)
    errors = cross_check_labels(good, features, groups, frozen.widths, seed, watch) if frozen and features else None
    doubts = errors.name_suggestions(good) if errors else {}
    found_shortcuts = _find_shortcuts(good, seen, groups, seed)
    row_findings = [
        *_image_findings(good, seen, duplicates),
        *_label_error_findings(good, doubts),
        *_outlier_findings(features),
    ]
    findings = [
        *find_unreadable(seen.faults, len(data)),
        *(each.map_rows(seen.rows) for each in row_findings),
        *find_class_problems(good),
        *_shortcut_findings(found_shortcuts),
    ]
    named = {int(seen.rows[row]): name for row, name in doubts.items()}
    seconds = time.monotonic() - start
    return CheckReport(data, seen.rows, sort_by_severity(findings), duplicates, named, found_shortcuts, seconds)


def _image_findings(good: Dataset, seen: ScanResult, duplicates: NearDuplicates | None) -> Iterator[Finding]:
    """Yield the findings on duplicates and pixels; their cases are rows of the usable images."""
    if duplicates:
        yield from find_duplicate_problems(duplicates, good, seen.image_stats.hashes)
        yield from find_odd_images(seen.image_stats, good.names())


def _outlier_findings(embedded: Embeddings | None) -> Iterator[Finding]:
    if embedded and len(far := find_outliers(embedded)):
        says = f"{format_count(len(far), 'image')} unlike all others"
        yield Finding("outlier", "note", says, "See that they belong to the set at all.", single_cases(far))


def cross_check_labels(
    good: Dataset,
    embedded: Embeddings,
    groups: NDArray[np.int64],
    widths: Sequence[int],
    seed: int,
    watch: ProgressWrapper = no_progress,
) -> LabelErrors | None:
    """Find label errors, in the test part too, by a ridge head fitted without the image and its near-duplicates."""
    unknown = good.task == MULTICLASS and (good.labels < 0).any()
    if len(np.unique(groups)) < 2 or np.count_nonzero(good.counts()) < 2 or unknown:
        return None
    problems = Material(good, embedded, groups, Findings({}, {}), seed).build_problems(widths, 1, np.arange(len(good)))
    logits = choose_head("ridge", "auto", problems, watch=watch).solution.logits
    probs = compute_probabilities(logits, fit_temperature(logits, good.labels)[0], good.task)
    return find_label_errors(probs, good.labels)


def _label_error_findings(good: Dataset, doubts: Mapping[int, str]) -> Iterator[Finding]:
    if doubts:
        says = f"{format_count(len(doubts), 'label')} in doubt: a head that never saw the image gives another one"
        advice = "Look from the top, and correct what is wrong; hard images with true labels are worth keeping."
        notes = [f"rather {other}?" for other in doubts.values()]
        yield Finding("label", "warning", says, advice, single_cases(np.array(list(doubts))), notes)


def _find_shortcuts(good: Dataset, seen: ScanResult, groups: NDArray[np.int64], seed: int) -> list[Shortcut]:
    if good.task != MULTICLASS or not len(good):
        return []
    return list(
        find_shortcuts(seen.image_stats, good.labels, assign_folds(good.labels, groups, seen.digests, FOLDS, seed))
    )


def _shortcut_findings(found_shortcuts: list[Shortcut]) -> Iterator[Finding]:
    for clue in found_shortcuts:
        if clue.is_suspicious:
            says = f"The {clue.what} alone tells {clue.accuracy:.0%} of the classes ({clue.chance:.0%} by chance)"
            advice = "A network may learn that instead of the subject. Take all images in the same way."
            yield Finding("shortcut", "warning", says, advice)


# --- the cleaned list of --fix ----------------------------------------------------------------------------------------


def check_cleaned(path: Path, *, force: bool) -> None:
    """Check that `write` may write there, before any work is done. Raises UsageError and OutputError."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"--fix writes a table; its name ends in .csv. Got {path}.")
    outputs.check_output(path, outputs.build_prefix_check(SIGNATURE), force=force)


def select_kept_rows(report: CheckReport) -> NDArray[np.intp]:
    """Return the rows of the cleaned list: readable, one of each content, no training image that leaks into the test.

    A leak is a near-duplicate in the test part. Of the same content under different labels none is kept, as it is
    unknown which label is right.
    """
    if report.near_duplicates is None:
        return report.usable
    good, duplicates = report.data.take(report.usable), report.near_duplicates
    is_test = good.split == (TEST if (good.split == TEST).any() else VALID)
    is_leak = ~is_test & np.isin(duplicates.groups, duplicates.groups[is_test])
    candidates = np.flatnonzero(~is_leak & ~_conflict_mask(duplicates))
    order = candidates[np.argsort(~is_test[candidates], kind="stable")]  # a copy in the test part is the one that stays
    _, first = np.unique(duplicates.first_copies[order], return_index=True)
    return np.sort(report.usable[order[first]])


def _conflict_mask(duplicates: NearDuplicates) -> NDArray[np.bool_]:
    """Return a mask of the images of whose content some copy has another label."""
    rows = np.flatnonzero(duplicates.conflicting != NO_PARTNER)
    same = rows[duplicates.first_copies[rows] == duplicates.first_copies[duplicates.conflicting[rows]]]
    return np.isin(duplicates.first_copies, duplicates.first_copies[same])


def write(report: CheckReport, path: Path, *, force: bool = False) -> int:
    """Write the cleaned list as CSV; return how many images it has.

    Columns are file, label, suspect (the label suggested instead), and split and group where the data has them. Raises
    UsageError for images that are not files, DataError for names that a table cannot hold, and OutputError.
    """
    check_cleaned(path, force=force)
    if not isinstance(report.data.images, ImageFiles):
        raise UsageError(f"--fix lists files, and the images of {report.data.root or 'this source'} are none.")
    rows = select_kept_rows(report)
    data = report.data.take(rows)
    columns = {
        "file": _relative_paths(data, path.parent),
        "label": format_labels(data, "|", ""),
        "suspect": [report.label_errors.get(row, "") for row in rows.tolist()],
    }
    if (data.split != UNSPLIT).any():
        columns["split"] = [SPLITS[part] for part in data.split]
    if data.groups is not None:
        columns["group"] = [str(group) if group >= 0 else "" for group in data.groups]
    text = _format_csv(columns)
    _check_round_trip(path, text, columns)
    outputs.write(path, text.encode())
    return len(data)


def _relative_paths(data: Dataset, folder: Path) -> list[str]:
    """Return the paths relative to the table's folder; none begins like a formula, which a spreadsheet would run."""
    paths = (os.path.relpath(os.path.join(data.root, name), folder) for name in data.names())
    return [f"./{path}" if path[0] in "=+-@" else path for path in paths]


def _format_csv(columns: dict[str, list[str]]) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _check_round_trip(path: Path, text: str, columns: dict[str, list[str]]) -> None:
    """Raise DataError unless `fit` reads the same from it; a comma in a class name, say, makes two labels of one."""
    again = build_table_dataset(
        parse_cells(str(path), text.encode()), TableFolder.from_folder(path.parent), None, strict=False
    )
    written = zip(map(os.path.normpath, columns["file"]), columns["label"], strict=True)
    for mine, read in zip(written, zip(again.names(), format_labels(again, "|", ""), strict=True), strict=True):
        if mine != read:
            raise DataError(
                f"A table cannot hold the image {mine[0]!r} with the label {mine[1]!r}: it would be read as {read}. "
                f"Names must not begin or end with a blank, nor hold a backslash; class names no '|', ';' or ','."
            )


# --- shortcuts --------------------------------------------------------------------------------------------------------

MAX_DEPTH, MIN_LEAF_IMAGES = 6, 5  # of the decision trees
MIN_IMAGES = 30  # below, chance alone finds too many
SUSPICIOUS_SHARE = 0.5  # of the way from chance to an accuracy of 1, above which a shortcut is suspicious


@dataclass(frozen=True)
class Shortcut:
    """Balanced accuracy on held-out images from `what` alone, and the accuracy of a guess."""

    what: str
    accuracy: float
    chance: float

    @property
    def is_suspicious(self) -> bool:
        """Whether a network could learn this instead of the subject."""
        return self.accuracy - self.chance > SUSPICIOUS_SHARE * (1 - self.chance)


def find_shortcuts(image_stats: ImageStats, labels: NDArray[np.integer], folds: NDArray[np.int8]) -> Iterator[Shortcut]:
    """Cross-validate size, border colour and mean colour as predictors of the class, over these folds."""
    if len(labels) < MIN_IMAGES or len(np.unique(labels)) < 2:
        return
    width, height = image_stats.sizes.T
    clues = {
        "size": np.column_stack([width, height, width / height, width * height]),
        "border colour": image_stats.borders,
        "mean colour": image_stats.colours,
    }
    for what, columns in clues.items():
        yield Shortcut(what, _cross_validate(columns, labels, folds), 1 / len(np.unique(labels)))


def _cross_validate(columns: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.int8]) -> float:
    """Return the balanced accuracy, each image predicted by a decision tree that was grown without its fold."""
    classes, own = np.unique(labels, return_inverse=True)
    y_pred = np.empty_like(own)
    for fold in np.unique(folds):
        inside = folds != fold
        weights = 1 / np.maximum(np.bincount(own[inside], minlength=len(classes)), 1)  # all classes count alike
        y_pred[~inside] = predict_with_tree(columns[inside], own[inside], weights, columns[~inside], MAX_DEPTH)
    return float(np.mean([(y_pred[own == each] == each).mean() for each in range(len(classes))]))


def predict_with_tree(
    columns: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.float64],
    queries: NDArray[np.floating],
    depth: int,
) -> NDArray[np.intp]:
    """Grow a decision tree of at most this depth and predict the queries, [n].

    Splits minimise Gini impurity with a weight for each class. It equals scikit-learn's DecisionTreeClassifier (a test
    compares), which need not be installed for it.
    """
    shares = np.bincount(labels, minlength=len(weights)) * weights
    splits = (
        [_find_best_split(column, labels, weights, shares) for column in columns.T]
        if np.count_nonzero(shares) > 1
        else []
    )
    best = max(range(len(splits)), key=lambda at: splits[at][0], default=0)
    if depth == 0 or not splits or splits[best][0] == -np.inf:
        return np.full(len(queries), shares.argmax())
    left, below = columns[:, best] <= splits[best][1], queries[:, best] <= splits[best][1]
    y_pred = np.empty(len(queries), np.intp)
    y_pred[below] = predict_with_tree(columns[left], labels[left], weights, queries[below], depth - 1)
    y_pred[~below] = predict_with_tree(columns[~left], labels[~left], weights, queries[~below], depth - 1)
    return y_pred


def _find_best_split(
    column: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> tuple[float, float]:
    """Return (purity, threshold) of the best split that leaves MIN_LEAF_IMAGES on each side; -inf without any.

    Purity is the sum over both sides of the squared weights of the classes divided by the side's weight. When an image
    changes sides, only one class's square changes, so no matrix of images by classes is needed.
    """
    order = np.argsort(column, kind="stable")
    values, kinds = column[order], labels[order]
    own = weights[kinds]
    before = own * _count_earlier(kinds)  # the weight of the same class to the left
    left = np.cumsum(own * (2 * before + own))
    right = (shares**2).sum() + np.cumsum(own * (2 * (before - shares[kinds]) + own))
    mass = np.cumsum(own)
    at = np.arange(MIN_LEAF_IMAGES - 1, len(values) - MIN_LEAF_IMAGES)
    at = at[values[at] < values[at + 1]]
    if not len(at):
        return -np.inf, 0.0
    purity = left[at] / mass[at] + right[at] / (mass[-1] - mass[at])
    best = at[purity.argmax()]
    return float(purity.max()), float(values[best] + values[best + 1]) / 2


def _count_earlier(kinds: NDArray[np.integer]) -> NDArray[np.intp]:
    """Count for each element the equal ones before it."""
    order = np.argsort(kinds, kind="stable")
    grouped = kinds[order]
    place = np.arange(len(kinds))
    count = np.empty(len(kinds), np.intp)
    count[order] = place - np.searchsorted(grouped, grouped)
    return count
