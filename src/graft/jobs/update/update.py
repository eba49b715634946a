"""Update the classes of a saved classifier from cached features, and compare it with the old one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graft.backbones.features import build_probe_features
from graft.data.dataset import TEST, Dataset
from graft.errors import DataError, UpdateError, UsageError
from graft.features.embed import Embeddings, embed
from graft.jobs import outputs
from graft.jobs.finalize import finalize, record_seconds
from graft.jobs.fit import select_duplicate_backbone
from graft.jobs.report.report import render_report, source_arguments
from graft.jobs.update import sources
from graft.jobs.update.changes import (
    Changes,
    NameMap,
    apply_corrections,
    build_index_map,
    remaining_classes,
    remap_labels,
    remap_predictions,
)
from graft.model import storage
from graft.model.classifier import Classifier, load
from graft.model.memory import EvaluationRecord, Memory
from graft.model.scoring import WORSE, ClassChange, ComparedClassifier, Comparison, compare, compare_classes
from graft.progress import ProgressWrapper, no_progress
from graft.training.material import Material, format_labels, prepare_material
from graft.training.probe import fit_probe, get_probe_features
from graft_runtime.card import MULTILABEL

CLASS_LIST_KEYS = ("few", "untested", "missing")  # entries of the report's data that are lists of class names


def update(
    model: str | Path | Classifier,
    output: str | Path | None = None,
    *,
    add: Any = (),
    rename: Mapping[str, str] | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    remove: str | Sequence[str] = (),
    correct: str | Path | None = None,
    photos: Any = None,
    allow_worse: bool = False,
    report: bool = True,
    force: bool = False,
    watch: ProgressWrapper = no_progress,
) -> Classifier:
    """Add, rename, merge or remove classes of a saved classifier, or correct labels, without its old photos.

    In this order: `correct` is a table of files and labels, in the old names; `rename` is {old: new}; `merge` is {new:
    the classes that become it}; `remove` names classes whose images are dropped; `add` is a source of images as
    `graft.fit` takes it, a folder of loose images (one class, called like the folder), or a list of such sources.
    The features of the old images come from the cache, or are computed from `photos`. Network, layers and kind of head
    stay; the head is fitted on all images, so that it equals the one that `graft.fit` finds on them. Old test images
    stay test images. With no `output` nothing is saved.

    The classifier's `report["update"]` says what changed and compares before and after on the old test images.
    Raises UpdateError where an old class, or the whole, got significantly worse, unless `allow_worse`, and for a
    classifier that cannot be updated; UsageError, DataError, ModelError or OutputError as `graft.fit` does.

    >>> import graft
    >>> graft.update("model/", "model2/", add="photos_of_new_class/").classes  # doctest: +SKIP
    ('rose', 'tulip', 'daisy')
    """
    merges = {new: _as_list(parts) for new, parts in (merge or {}).items()}
    changes = Changes(rename or {}, merges, _as_list(remove), correct, _as_sources(add))
    if changes.is_empty:
        raise UsageError("Nothing to do: --add, --rename, --merge, --remove or --correct says what to change.")
    source_args = source_arguments(photos)
    place, times = None if output is None else outputs.resolve_output(output), dict[str, float]()
    with storage.lock_folder(place, force=force) if place else nullcontext():
        old = model if isinstance(model, Classifier) else load(model)
        if changes.is_rename_only:
            after = rename_classes(old, changes.map_names(old.classes))
            html = (
                render_report(after, None, watch, source_args, place)
                if place and report and after.memory and after.memory.tested and after.report.get("evaluation")
                else ""
            )
        else:
            after, material = _refit_head(old, changes, photos, times, watch)
            _refuse_worse(after.report["update"]["effect"], allow_worse)
            tested = material.data.take(material.test)
            with record_seconds(times, "report"):
                html = (
                    render_report(after, tested, watch, source_args, place)
                    if place and report and after.report["evaluation"]
                    else ""
                )
        if place:
            after.save(place, page=html, force=force)
    return after


def _as_list(classes: str | Sequence[str]) -> Sequence[str]:
    """Return a list of classes, also from one name."""
    return [classes] if isinstance(classes, str) else classes


def _as_sources(add: Any) -> tuple[Any, ...]:
    """Return a tuple of sources, also from one source, which may itself be a tuple (images, labels)."""
    if isinstance(add, list):
        return tuple(add)
    return () if isinstance(add, tuple) and not add else (add,)


@dataclass(frozen=True)
class _UpdateInputs:
    """Data set of the update, the first `old_count` images being the old ones, and the old predictions.

    `classes` are the classes of these predictions: the remaining ones by their new names, then those removed.
    """

    data: Dataset
    old_count: int
    old_exam: EvaluationRecord | None
    classes: tuple[str, ...]
    corrected_count: int


def _refit_head(
    old: Classifier, changes: Changes, photos: Any, times: dict[str, float], watch: ProgressWrapper
) -> tuple[Classifier, Material]:
    """Fit the head on the changed data set; return the classifier and its training material."""
    sources.get_image_records(old)
    plan, pinned_plan = sources.restore_plans(old)
    with record_seconds(times, "read images"):
        start = _build_inputs(old, changes, photos, watch)
    network = sources.restore_backbone(old)
    with record_seconds(times, "embed images"):
        features = build_probe_features(select_duplicate_backbone(network))
        embedded = embed(features, start.data, seed=plan.seed, watch=watch)
        sources.check_images_available(start.data, start.old_count, embedded.faults, photos)
        head_features = get_probe_features(pinned_plan, network)
        sources.check_head_features(head_features, embedded, start.data, start.old_count, photos, watch)
        embedded, repeated = _drop_repeats(start, embedded)
        _check_added(changes, start, embedded, repeated)
    with record_seconds(times, "split"):
        records = sources.get_image_records(old)
        material = prepare_material(start.data, embedded, plan.seed, records.given, watch)
        _check_left(old, material, start)
    with record_seconds(times, "solve head"):
        trained = fit_probe(pinned_plan, network, material, watch)
    classifier = finalize(plan, network, trained, times, watch)
    change_report = {
        "rename": dict(changes.rename),
        "merge": {new: list(parts) for new, parts in changes.merge.items()},
        "remove": list(changes.remove),
        "corrected": start.corrected_count if changes.correct else None,
        "added": _count_added(material, start, embedded),
        "known_already": repeated,
        "effect": _compare_with_before(old, classifier, start).as_dict(),
    }
    root = old.card.data.get("root", "")
    card = replace(classifier.card, data=classifier.card.data | {"root": root})
    return replace(classifier, card=card, report=classifier.report | {"update": change_report}), material


def _build_inputs(old: Classifier, changes: Changes, photos: Any, watch: ProgressWrapper) -> _UpdateInputs:
    records, names = sources.get_image_records(old), changes.map_names(old.classes)
    labels, count = records.labels, 0
    if changes.correct:
        labels, count = apply_corrections(records, old.classes, Path(changes.correct), watch)
    classes = remaining_classes(names)
    index_map = build_index_map(names, classes)
    new_labels = remap_labels(labels, index_map, len(classes))
    kept_rows = np.flatnonzero(new_labels >= 0) if new_labels.ndim == 1 else np.arange(len(new_labels))
    data = sources.rebuild_dataset(records, new_labels, classes, photos, watch).take(kept_rows)
    for source in changes.add:
        data = sources.append_source(data, source, watch)
    exam = old.memory.tested if old.memory else None
    before = remap_predictions(exam, new_labels[records.parts == TEST], index_map, len(classes)) if exam else None
    gone = [name for name, new in names.items() if new is None]
    return _UpdateInputs(data, len(kept_rows), before, (*classes, *gone), count)


def _drop_repeats(start: _UpdateInputs, embedded: Embeddings) -> tuple[Embeddings, int]:
    """Drop added images that are among the old ones; return also how many. DataError where their label differs."""
    data = start.data
    first = {
        embedded.digests[at].tobytes(): row for at, row in enumerate(embedded.rows.tolist()) if row < start.old_count
    }
    stays, label_texts = np.ones(len(embedded), bool), format_labels(data)
    for at, row in enumerate(embedded.rows.tolist()):
        known = first.get(embedded.digests[at].tobytes())
        if row < start.old_count or known is None:
            continue
        stays[at] = False
        if label_texts[row] != label_texts[known]:
            part = "tested" if data.split[known] == TEST else "trained"
            raise DataError(
                f"{data.name(row)} is added as {label_texts[row]!r}, and the classifier was {part} on the same image "
                f"as {label_texts[known]!r} ({data.name(known)}). Take it out, or say with --correct what it shows."
            )
    return embedded.take(np.flatnonzero(stays)), int((~stays).sum())


def _check_added(changes: Changes, start: _UpdateInputs, embedded: Embeddings, repeated: int) -> None:
    """Raise DataError where there are images to add and none of them can be used."""
    if changes.add and not repeated and not (embedded.rows >= start.old_count).any():
        some = ", ".join(
            f"{start.data.name(row)} ({why})" for row, why in list(embedded.faults.items())[: sources.MAX_NAMES]
        )
        raise DataError(f"Not one of the {len(embedded.faults):,} images to add can be used: {some}.")


def _check_left(old: Classifier, material: Material, start: _UpdateInputs) -> None:
    """Raise DataError for an old class that has no training image left after corrections."""
    lost = [name for name in start.data.classes if name in old.classes and name not in material.data.classes]
    if lost:
        raise DataError(f"No image of {', '.join(lost)} is left after the corrections. Remove it: --remove {lost[0]}")


def _count_added(material: Material, start: _UpdateInputs, embedded: Embeddings) -> dict[str, dict[str, int]]:
    """Count the added images of each class that are for training and for the test."""
    old = {own.tobytes() for own in embedded.digests[embedded.rows < start.old_count]}
    new = np.array([own.tobytes() not in old for own in material.embeddings.digests], bool)
    tested = material.data.split == TEST
    train = material.data.take(new & ~tested).counts().tolist()
    test = material.data.take(new & tested).counts().tolist()
    counts = zip(material.data.classes, train, test, strict=True)
    return {name: {"train": train, "test": test} for name, train, test in counts if train + test}


# --- renaming ---------------------------------------------------------------------------------------------------------


def rename_classes(old: Classifier, names: NameMap) -> Classifier:
    """Return the classifier with renamed classes; the names of images stay."""
    to = {name: new or name for name, new in names.items()}
    report = old.report | {
        "classes": list(remaining_classes(names)),
        "update": {"rename": {name: new for name, new in to.items() if name != new}},
    }
    if score := report.get("evaluation"):
        report["evaluation"] = score | {"classes": [_rename_entry(each, to) for each in score["classes"]]}
    if data := report.get("data"):
        listed = {entry: [to.get(name, name) for name in data[entry]] for entry in CLASS_LIST_KEYS if entry in data}
        report["data"] = data | listed
    return replace(old, card=replace(old.card, classes=remaining_classes(names)), report=report)


def _rename_entry(scored: dict[str, Any], to: dict[str, str]) -> dict[str, Any]:
    return scored | {"name": to.get(scored["name"], scored["name"])}


# --- comparison with the old classifier -------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateComparison:
    """Comparison of after with before, overall and for each old class; None without shared test images."""

    overall: Comparison | None
    classes: list[ClassChange]

    @property
    def regressions(self) -> list[str]:
        """Sentences about scores that got significantly worse."""
        found = []
        if self.overall and self.overall.verdict == WORSE:
            what = "right" if self.overall.metric == "accuracy" else "mean average precision"
            found.append(
                f"from {self.overall.second:.1%} to {self.overall.first:.1%} {what} of {self.overall.shared:,}"
            )
        for each in self.classes:
            if each.verdict == WORSE:
                found.append(f"of {each.count:,} {each.name} {each.second:.1%} were found and {each.first:.1%} are now")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain values for JSON."""
        whole = self.overall.as_dict() if self.overall else None
        return {"whole": whole, "classes": [asdict(each) for each in self.classes], "worse": self.regressions}


def compare_update(after: ComparedClassifier, before: ComparedClassifier) -> UpdateComparison:
    """Compare two classifiers on the test images that they share; an empty comparison without any."""
    try:
        overall = compare(after, before)
    except DataError:
        return UpdateComparison(None, [])
    return UpdateComparison(overall, compare_classes(after, before))


def _compare_with_before(old: Classifier, new: Classifier, start: _UpdateInputs) -> UpdateComparison:
    """Compare with the old classifier on the remaining old test images."""
    if start.old_exam is None or new.memory is None or new.memory.tested is None:
        return UpdateComparison(None, [])
    limits = _old_thresholds(old, start.classes) if old.card.task == MULTILABEL else ()
    assert old.memory
    before = ComparedClassifier(
        "before", old.card.task, start.classes, limits, Memory(old.memory.trained, start.old_exam)
    )
    after = ComparedClassifier("after", new.card.task, new.classes, new.card.thresholds, new.memory)
    return compare_update(after, before)


def _old_thresholds(old: Classifier, classes: Sequence[str]) -> tuple[float, ...]:
    """Return the old thresholds of classes that kept their names; 0.5 for a merged or renamed one."""
    known = dict(zip(old.classes, old.card.thresholds, strict=False))
    return tuple(known.get(name, 0.5) for name in classes)


def _refuse_worse(found: Mapping[str, Any], allow_worse: bool) -> None:
    """Raise UpdateError with the scores that got worse, unless that is allowed."""
    if allow_worse or not (sentences := found["worse"]):
        return
    raise UpdateError(
        f"Nothing was written, as the update is worse on the old test images: {'; '.join(sentences)}. See whether "
        "the new images belong to these classes; --allow-worse accepts it."
    )
