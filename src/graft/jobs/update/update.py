"""A saved classifier with other classes: what changed is worked out anew, from the cache, and compared with before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graft.backbones.stages import probed
from graft.data.dataset import TEST, Dataset
from graft.errors import DataError, UpdateError, UsageError
from graft.jobs import finish, outputs
from graft.jobs.fit import looking, timed, weights_of
from graft.jobs.report import commands
from graft.jobs.report.report import page
from graft.jobs.update import added, recall
from graft.jobs.update.changes import Changes, answered, kept, numbers, relabelled
from graft.jobs.update.compared import Effect, effect
from graft.jobs.update.corrected import corrected
from graft.jobs.update.renamed import renamed
from graft.model import storage
from graft.model.classifier import Classifier, load
from graft.model.compare import Side
from graft.model.memory import Exam, Memory
from graft.progress import Watch, unwatched
from graft.training.embed import Embedded, embed
from graft.training.material import Material, described, prepare
from graft.training.probe import frozen_of, solve
from graft_runtime.card import MULTILABEL


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
    watch: Watch = unwatched,
) -> Classifier:
    """Add, rename, merge or remove classes of a saved classifier, or correct labels, without its old photos.

    In this order: `correct` is a table of files and labels, in the old names; `rename` is {old: new}; `merge` is {new:
    the classes that become it}; `remove` names classes whose pictures are forgotten; `add` is a source of pictures as
    `graft.fit` takes it, a folder of loose pictures (one class, called like the folder), or a list of such sources.
    The features of the old pictures come from the cache, or are computed from `photos`. Network, layers and kind of
    head stay; the head is solved on all pictures, so that it is the one that `graft.fit` finds on them. Old test
    pictures stay test pictures. With no `output` nothing is saved.

    The classifier's `report["update"]` says what changed and compares before and after on the old test pictures.
    Raises UpdateError where an old class, or the whole, got significantly worse, unless `allow_worse`, and for a
    classifier that cannot be updated; UsageError, DataError, ModelError or OutputError as `graft.fit` does.

    >>> import graft
    >>> graft.update("model/", "model2/", add="photos_of_new_class/").classes  # doctest: +SKIP
    ('rose', 'tulip', 'daisy')
    """
    merges = {new: _names(parts) for new, parts in (merge or {}).items()}
    changes = Changes(rename or {}, merges, _names(remove), correct, _sources(add))
    if changes.nothing:
        raise UsageError("Nothing to do: --add, --rename, --merge, --remove or --correct says what to change.")
    words = commands.words(photos)
    place, times = None if output is None else outputs.place_of(output), dict[str, float]()
    with storage.claimed(place, force=force) if place else nullcontext():
        old = model if isinstance(model, Classifier) else load(model)
        if changes.only_names:
            after = renamed(old, changes.names(old.classes))
            html = page(after, None, watch, words, place) if place and report and after.report.get("evaluation") else ""
        else:
            after, material = _anew(old, changes, photos, times, watch)
            _refuse_worse(after.report["update"]["effect"], allow_worse)
            tested = material.data.take(material.test)
            with timed(times, "report"):
                html = (
                    page(after, tested, watch, words, place) if place and report and after.report["evaluation"] else ""
                )
        if place:
            after.save(place, page=html, force=force)
    return after


def _names(classes: str | Sequence[str]) -> Sequence[str]:
    """Several, or one: 'ab' is not 'a' and 'b'."""
    return [classes] if isinstance(classes, str) else classes


def _sources(add: Any) -> tuple[Any, ...]:
    """A list of sources, or one: (pictures, labels) is a tuple."""
    if isinstance(add, list):
        return tuple(add)
    return () if isinstance(add, tuple) and not add else (add,)


@dataclass(frozen=True)
class _Start:
    """The table that is learned from, its first `old` pictures those of before; and the old answers.

    `classes` are those that these answers count in: the old ones as they are called now, then those that are `gone`.
    """

    data: Dataset
    old: int
    before: Exam | None
    classes: tuple[str, ...]
    corrected: int


def _anew(
    old: Classifier, changes: Changes, photos: Any, times: dict[str, float], watch: Watch
) -> tuple[Classifier, Material]:
    """The classifier after the changes, and what it was solved on."""
    recall.remembered(old)
    chosen, pinned = recall.choices(old)
    with timed(times, "read pictures"):
        start = _changed(old, changes, photos, watch)
    network = recall.backbone(old)
    with timed(times, "embed pictures"):
        embedded = embed(probed(looking(network)), start.data, seed=chosen.seed, watch=watch)
        recall.check_found(start.data, start.old, embedded.faults, photos)
        recall.check_read(frozen_of(pinned, network), embedded, start.data, start.old, photos, watch)
        embedded, repeated = _once(start, embedded)
        _check_added(changes, start, embedded, repeated)
    with timed(times, "split"):
        held = recall.remembered(old)
        material = prepare(start.data, embedded, chosen.seed, held.given, watch)
        _check_left(old, material, start)
    with timed(times, "solve head"):
        trained = solve(pinned, network, material, watch)
    with timed(times, "evaluate"):
        classifier, calibration = finish.calibrated(chosen, network, trained)
        classifier, score = finish.examined(finish.aware(classifier, trained, watch), trained, watch)
        trained.record["calibration"] = asdict(calibration)
        trained.record["weights"] = weights_of(network)
        found = _compared(old, classifier, start)
    classifier = finish.recorded(classifier, trained, score, times, [])
    told = {
        "rename": dict(changes.rename),
        "merge": {new: list(parts) for new, parts in changes.merge.items()},
        "remove": list(changes.remove),
        "corrected": start.corrected if changes.correct else None,
        "added": _counted(material, start, embedded),
        "known_already": repeated,
        "effect": found.as_dict(),
    }
    root = old.card.data.get("root", "")
    card = replace(classifier.card, data=classifier.card.data | {"root": root})
    return replace(classifier, card=card, report=classifier.report | {"update": told}), material


def _changed(old: Classifier, changes: Changes, photos: Any, watch: Watch) -> _Start:
    held, names = recall.remembered(old), changes.names(old.classes)
    labels, count = held.labels, 0
    if changes.correct:
        labels, count = corrected(held, old.classes, Path(changes.correct), watch)
    classes = kept(names)
    to = numbers(names, classes)
    now = relabelled(labels, to, len(classes))
    stays = np.flatnonzero(now >= 0) if now.ndim == 1 else np.arange(len(now))
    data = recall.recalled(held, now, classes, photos, watch).take(stays)
    for source in changes.add:
        data = added.joined(data, source, watch)
    exam = old.memory.tested if old.memory else None
    before = answered(exam, now[held.parts == TEST], to, len(classes)) if exam else None
    gone = [name for name, new in names.items() if new is None]
    return _Start(data, len(stays), before, (*classes, *gone), count)


def _once(start: _Start, embedded: Embedded) -> tuple[Embedded, int]:
    """Without added pictures that were there before, and how many they are; DataError for another label than then."""
    data = start.data
    first = {embedded.digests[at].tobytes(): row for at, row in enumerate(embedded.rows.tolist()) if row < start.old}
    stays, said = np.ones(len(embedded), bool), described(data)
    for at, row in enumerate(embedded.rows.tolist()):
        known = first.get(embedded.digests[at].tobytes())
        if row < start.old or known is None:
            continue
        stays[at] = False
        if said[row] != said[known]:
            part = "tested" if data.split[known] == TEST else "trained"
            raise DataError(
                f"{data.name(row)} is added as {said[row]!r}, and the classifier was {part} on the same picture as "
                f"{said[known]!r} ({data.name(known)}). Take it out, or say with --correct what it shows."
            )
    return embedded.take(np.flatnonzero(stays)), int((~stays).sum())


def _check_added(changes: Changes, start: _Start, embedded: Embedded, repeated: int) -> None:
    """Raises DataError where there are pictures to add and not one of them can be used."""
    if changes.add and not repeated and not (embedded.rows >= start.old).any():
        some = ", ".join(
            f"{start.data.name(row)} ({why})" for row, why in list(embedded.faults.items())[: recall.SHOWN]
        )
        raise DataError(f"Not one of the {len(embedded.faults):,} pictures to add can be used: {some}.")


def _check_left(old: Classifier, material: Material, start: _Start) -> None:
    """Raises DataError for an old class that corrections took all training pictures of."""
    lost = [name for name in start.data.classes if name in old.classes and name not in material.data.classes]
    if lost:
        raise DataError(f"No picture of {', '.join(lost)} is left after the corrections. Remove it: --remove {lost[0]}")


def _counted(material: Material, start: _Start, embedded: Embedded) -> dict[str, dict[str, int]]:
    """For each class that got pictures how many are for training, and how many for the test."""
    old = {own.tobytes() for own in embedded.digests[embedded.rows < start.old]}
    new = np.array([own.tobytes() not in old for own in material.embedded.digests], bool)
    tested = material.data.split == TEST
    train = material.data.take(new & ~tested).counts().tolist()
    test = material.data.take(new & tested).counts().tolist()
    counts = zip(material.data.classes, train, test, strict=True)
    return {name: {"train": train, "test": test} for name, train, test in counts if train + test}


def _compared(old: Classifier, new: Classifier, start: _Start) -> Effect:
    """Before and after on the old test pictures that are left."""
    if start.before is None or new.memory is None or new.memory.tested is None:
        return Effect(None, [])
    limits = _limits(old, start.classes) if old.card.task == MULTILABEL else ()
    assert old.memory
    before = Side("before", old.card.task, start.classes, limits, Memory(old.memory.trained, start.before))
    after = Side("after", new.card.task, new.classes, new.card.thresholds, new.memory)
    return effect(after, before)


def _limits(old: Classifier, classes: Sequence[str]) -> tuple[float, ...]:
    """The old thresholds of classes that kept their names; one half for a merged or renamed one."""
    known = dict(zip(old.classes, old.card.thresholds, strict=False))
    return tuple(known.get(name, 0.5) for name in classes)


def _refuse_worse(found: Mapping[str, Any], allow_worse: bool) -> None:
    """Raises UpdateError that says which classes are worse, and by how much."""
    if allow_worse or not (sentences := found["worse"]):
        return
    raise UpdateError(
        f"Nothing was written, as the update is worse on the old test pictures: {'; '.join(sentences)}. See whether "
        "the new pictures belong to these classes; --allow-worse accepts it."
    )
