"""Training material: usable images with features, split into parts that share no near-duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.classes import find_similar_names, small_classes
from graft.data.dataset import TEST, TRAIN, UNLABELLED, UNSPLIT, VALID, Dataset
from graft.data.duplicates import (
    NO_PARTNER,
    NearDuplicates,
    count_repeats,
    find_near_duplicates,
    group_near_duplicates,
    join_user_groups,
    partner_pairs,
)
from graft.data.quality import find_misnamed, format_count
from graft.data.split import assign_folds, split_by_content, split_stratified
from graft.errors import DataError
from graft.features.embed import Embeddings
from graft.heads.head import Problem, standardise_features
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.formatting import MAX_NAMES, join_names

TEST_SHARE = 0.2
VALID_SHARE = 0.15  # of the training part, where tuning needs images to choose by
FOLDS = 4


@dataclass(frozen=True)
class Findings:
    """Findings about the data: `faults` names each image left out and why; the rest are counts.

    `alike` images have a near-duplicate; `leaks` are test images with one, or one of their own group, among the
    training images, which only a ready-made split can have; `missing` classes had not one usable image. `columns`
    are what those of a table were taken for; `alike_names` are sentences about classes that may be one. `conflicts`
    are sentences about images of the same content with different labels, `disputed` images have a near-duplicate
    with another label; `few` are classes of a handful, `misnamed` images of another format than their ending says.
    `placeholders` are sentences about images that likely stand where others are missing.
    `suspects` are sentences about labels that are likely wrong, the most doubtful first. `graft check` shows them all.
    """

    faults: dict[str, str]
    ignored: dict[str, int]
    alike: int = 0
    leaks: int = 0
    missing: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    columns: str = ""
    alike_names: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    disputed: int = 0
    few: tuple[str, ...] = ()
    misnamed: int = 0
    placeholders: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """The good images with their features and groups; row i of all three is the same image.

    `train` are all images that a head may be fitted on, and among them `valid` those that the user set aside for
    choosing; `test` are for the score alone. `has_given_split` is whether the user made the split.
    """

    data: Dataset
    embeddings: Embeddings
    groups: NDArray[np.int64]
    findings: Findings
    seed: int = 0
    has_given_split: bool = False
    train: NDArray[np.intp] = field(init=False)
    valid: NDArray[np.intp] = field(init=False)
    test: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", self.data.part(TRAIN, VALID))
        object.__setattr__(self, "valid", self.data.part(VALID))
        object.__setattr__(self, "test", self.data.part(TEST))

    def fingerprint(self) -> str:
        """Return a hash of the images and their labels, independent of file names."""
        names = [digest.tobytes().hex() for digest in self.embeddings.digests]
        rows = sorted(zip(names, self.data.label_names(), strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def targets(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the targets of these images, [rows, classes]: 1 for each class that an image shows."""
        return table.label_matrix(self.data.labels[rows], len(self.data.classes))

    def split_validation(self, share: float = VALID_SHARE) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Split the training part into rows to train on and rows held out for validation.

        The held out ones are the user's validation part, without the images of a class that the others lack; where
        there is no such part, about `share` of each class. Then near-duplicates stay on one side, every class keeps an
        image to tune on, and with a handful of images nothing may be left to hold out.
        """
        if len(self.valid):
            lacking = table.count_labels(self.data.labels[self.data.part(TRAIN)], len(self.data.classes)) == 0
            needed = self.targets(self.valid)[:, lacking].any(axis=1)
            held_out = self.valid[~needed]
        else:
            digests = self.embeddings.digests[self.train]
            part = split_stratified(self.data.labels[self.train], self.groups[self.train], digests, share, self.seed)
            held_out = self.train[part == TEST]
        return np.setdiff1d(self.train, held_out), held_out

    def build_problems(
        self, widths: Sequence[int], views: int, rows: NDArray[np.intp] | None = None
    ) -> dict[str, Problem]:
        """Build a Problem of the training part, or these rows of it, for each choice of layers.

        All views of an image are in one unit and fold.
        """
        rows = self.train if rows is None else rows
        labels, groups = self.data.labels[rows], self.groups[rows]
        fold = assign_folds(labels, groups, self.embeddings.digests[rows], FOLDS, self.seed)
        whole = Problem(
            standardise_features(self.embeddings.select(rows, views), widths),
            np.repeat(labels if labels.ndim == 2 else labels.astype(np.int64), views, axis=0),
            np.repeat(groups, views),
            np.repeat(fold, views),
            len(self.data.classes),
        )
        return {"last": replace(whole, features=whole.features.drop_before(sum(widths[:-1]))), "all": whole}


def prepare_material(
    data: Dataset,
    embeddings: Embeddings,
    seed: int,
    has_given_split: bool | None = None,
    watch: ProgressWrapper = no_progress,
) -> Material:
    """Drop unusable images and classes without images, find near-duplicates, and split.

    `has_given_split` is for a table that grew: the images keep their parts, and it is whether the user made them.

    Raises DataError when fewer than two classes are left, a ready-made test part has a class of its own, or some
    images have labels and others none that is known.
    """
    check_labelled(data)
    faults = data.named(embeddings.faults)
    embeddings = _sort_by_content(embeddings, data.labels)
    good = data.take(embeddings.rows)
    missing = tuple(name for name, count in zip(data.classes, good.counts(), strict=True) if not count)
    good = _drop_missing_classes(good, missing, faults)
    near_dups = find_near_duplicates(embeddings, embeddings.digests, embeddings.hashes, good.labels, good.split, watch)
    groups = join_user_groups(near_dups.groups, good.groups)
    split_data = replace(
        good,
        split=(_assign_split if has_given_split is None else _extend_split)(good, groups, embeddings.digests, seed),
    )
    has_given_split = bool((good.split != UNSPLIT).any()) if has_given_split is None else has_given_split
    _check_test_classes(split_data)
    findings = Findings(
        faults=faults,
        ignored=dict(data.ignored),
        alike=int((np.bincount(near_dups.groups)[near_dups.groups] > 1).sum()),
        leaks=int(np.isin(groups[split_data.part(TEST)], groups[split_data.part(TRAIN, VALID)]).sum()),
        missing=missing,
        untested=_find_untested_classes(split_data),
        columns=data.columns,
        alike_names=tuple(find_similar_names(data.classes, data.counts())),
        conflicts=tuple(_describe_conflicts(split_data, near_dups)),
        disputed=int((near_dups.conflicting != NO_PARTNER).sum()),
        few=small_classes(split_data),
        placeholders=tuple(_describe_placeholders(split_data, near_dups, embeddings)),
        misnamed=int(find_misnamed(embeddings.image_stats, split_data.names()).sum())
        if len(embeddings.image_stats)
        else 0,
    )
    if len(np.unique(groups[split_data.part(TRAIN, VALID)])) < 2:
        raise DataError("All training images are near-duplicates of each other. Add images that differ.")
    if has_given_split:
        groups = _regroup_training(groups, good, split_data.part(TRAIN, VALID), embeddings, watch)
    return Material(split_data, embeddings, groups, findings, seed, has_given_split)


def check_labelled(data: Dataset) -> None:
    """Raise DataError where only some images have a known label."""
    unknown = int((data.labels == UNLABELLED).sum()) if data.task == MULTICLASS else 0
    if 0 < unknown < len(data):
        raise DataError(f"{unknown} of {len(data)} images have no label. Leave them out, or label them.")


def format_labels(data: Dataset, mark: str = ", ", none: str = "no label") -> list[str]:
    """Return the label of each image as text; several are joined by `mark`."""
    return [each if isinstance(each, str) else mark.join(each or ()) or none for each in data.label_names()]


def _sort_by_content(embeddings: Embeddings, labels: NDArray[np.integer]) -> Embeddings:
    """Sort the images by content: sums are then the same to the bit, whatever the file names."""
    order = np.lexsort((*np.atleast_2d(labels[embeddings.rows].T), *embeddings.digests.T))
    return embeddings.take(order)


def _regroup_training(
    groups: NDArray[np.int64], good: Dataset, train: NDArray[np.intp], embeddings: Embeddings, watch: ProgressWrapper
) -> NDArray[np.int64]:
    """Find the training part's groups again within itself, so that no test image decides on its folds."""
    regrouped = groups + len(groups)
    own = None if good.groups is None else good.groups[train]
    regrouped[train] = join_user_groups(_find_near_duplicates(embeddings.take(train), watch), own)
    return regrouped


def _find_near_duplicates(embeddings: Embeddings, watch: ProgressWrapper) -> NDArray[np.int64]:
    return group_near_duplicates(embeddings, embeddings.digests, embeddings.hashes, watch)


def _describe_conflicts(data: Dataset, near_dups: NearDuplicates) -> Iterator[str]:
    """Describe images of the same content with different labels."""
    labels = format_labels(data)
    for one, two in partner_pairs(near_dups.conflicting).tolist():
        if near_dups.first_copies[one] == near_dups.first_copies[two]:
            yield f"{data.name(one)} ({labels[one]}) and {data.name(two)} ({labels[two]}) are the same image"


def _describe_placeholders(data: Dataset, near_dups: NearDuplicates, embeddings: Embeddings) -> Iterator[str]:
    """Describe images that are likely placeholders for missing ones."""
    blank = embeddings.image_stats.is_blank if len(embeddings.image_stats) else np.zeros(len(data), bool)
    if blank.any():
        some = f"{format_count(int(blank.sum()), 'image')} of a single colour, such as {data.name(int(blank.argmax()))}"
        yield f"{some}: placeholders for missing ones?"
    for row, count in count_repeats(near_dups.first_copies).items():
        if not blank[row]:
            yield f"{count:,} images are the very same, such as {data.name(row)}: a placeholder for missing ones?"


def _drop_missing_classes(good: Dataset, missing: Sequence[str], faults: dict[str, str]) -> Dataset:
    """Remove classes that lost all their images. Raises DataError if too few are left."""
    kept_classes = tuple(name for name in good.classes if name not in missing)
    multilabel = good.task == MULTILABEL
    if len(kept_classes) < (1 if multilabel else 2):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(faults.values()).most_common(5))
        raise DataError(
            f"{'No class has' if multilabel else 'Fewer than two classes have'} an image that can be used: "
            f"{len(faults)} images were left out{f' ({reasons})' if reasons else ''}."
        )
    number = {name: at for at, name in enumerate(kept_classes)}
    if multilabel:
        return replace(good, classes=kept_classes, labels=good.labels[:, [name in number for name in good.classes]])
    renamed = np.array([number.get(name, -1) for name in good.classes], np.int32)
    return replace(good, classes=kept_classes, labels=renamed[good.labels])


def _assign_split(data: Dataset, groups: NDArray[Any], digests: NDArray[np.uint8], seed: int) -> NDArray[np.int8]:
    """Return the part of each image: the user's split where there is one, else a stratified one.

    Without a test part the user's validation part becomes the test part.
    """
    if (data.split == UNSPLIT).all():
        return split_by_content(data.labels, groups, digests, TEST_SHARE, seed)
    if (data.split == TEST).any():
        return np.where(data.split == UNSPLIT, TRAIN, data.split).astype(np.int8)
    return np.where(data.split == VALID, TEST, TRAIN).astype(np.int8)


def _extend_split(data: Dataset, groups: NDArray[Any], digests: NDArray[np.uint8], seed: int) -> NDArray[np.int8]:
    """Return the part of each image where some have one: new images join their near-duplicates, else go by content.

    A new image with near-duplicates in two parts goes to training.
    """
    part, new = data.split.copy(), data.split == UNSPLIT
    if data.task == MULTILABEL and new.any():  # by the new images alone: a multilabel split depends on the whole set
        part[new] = split_by_content(data.labels[new], groups[new], digests[new], TEST_SHARE, seed)
    elif new.any():
        part[new] = split_by_content(data.labels, groups, digests, TEST_SHARE, seed)[new]
    for code in (TEST, VALID, TRAIN):
        part[new & np.isin(groups, groups[data.split == code])] = code
    return part


def _check_test_classes(data: Dataset) -> None:
    trained = table.count_labels(data.labels[data.part(TRAIN, VALID)], len(data.classes))
    if unknown := [name for name, count in zip(data.classes, trained, strict=True) if not count]:
        raise DataError(
            f"The training part has no usable image of {join_names(unknown, MAX_NAMES)}, the test part has. "
            f"Add training images of these classes, or take them out of the test part."
        )


def _find_untested_classes(data: Dataset) -> tuple[str, ...]:
    tested = table.count_labels(data.labels[data.part(TEST)], len(data.classes))
    return tuple(name for name, count in zip(data.classes, tested, strict=True) if not count)
