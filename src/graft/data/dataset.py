"""The Dataset: columns of images, labels, split and groups, and functions that build one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from graft import extras
from graft.data.images import ContentDigest, ImageFiles, Images, InMemoryImages, MixedImages, Raw
from graft.errors import DataError
from graft_runtime import image, inputs
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.formatting import MAX_NAMES_IN_REPR, join_names
from graft_runtime.terminal import escape_breaks
from graft_runtime.thumbnail import Thumbnail, make_thumbnail

SPLITS = ("", "train", "valid", "test")  # the codes in Dataset.split; 0 is 'not decided yet'
UNSPLIT, TRAIN, VALID, TEST = range(4)
UNLABELLED = UNGROUPED = -1
DIGEST = 16  # bytes
MAX_SHOWN_CLASSES, MAX_SHOWN_IMAGES = 12, 6  # of a Dataset that shows itself in a notebook
NO_LABEL = "images without a label"  # what they are counted as where they are left out

Labels = NDArray[np.int32] | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as columns of equal length: a million rows are a million short strings, not objects.

    `labels` are one class for each image, int32 [n] with UNLABELLED where it is unknown; or, where an image may
    show several classes or none, uint8 [n, classes] with a 1 for each that it shows.
    `groups` are numbers: images with the same one (of one patient, one video) are never divided between parts;
    UNGROUPED where an image stands alone. `ignored` counts, in words, what the reader saw and left out; `columns`
    says what those of a table were taken for.
    """

    images: Images
    labels: Labels
    classes: tuple[str, ...]
    split: NDArray[np.int8]  # [n]; index into SPLITS
    ignored: dict[str, int] = field(default_factory=dict)
    groups: NDArray[np.int64] | None = None  # [n]
    columns: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        where = f" in {self.root}" if self.root else ""
        names = join_names(self.classes, MAX_NAMES_IN_REPR)
        return escape_breaks(f"<Dataset of {len(self):,} images{where}: {len(self.classes):,} classes ({names})>")

    def _repr_html_(self) -> str:
        from graft_runtime import display  # here, as only a notebook needs it

        counts = self.counts()[: len(self.classes)]
        order = np.argsort(-counts, kind="stable")[:MAX_SHOWN_CLASSES].tolist()
        bars = {self.classes[at]: float(counts[at]) for at in order}
        more = len(self.classes) - len(order)
        return display.block(
            f"{len(self):,} images, {len(self.classes):,} classes",
            display.note(self.root),
            display.bars(bars, [f"{count:,.0f}" for count in bars.values()], max(bars.values(), default=1.0)),
            display.note(f"and {more:,} smaller classes" if more else ""),
            display.side_by_side(*map(self._figure, self._examples(order))),
        )

    def _examples(self, classes: Sequence[int]) -> list[int]:
        """Return rows of a few images, of one class each where there are labels."""
        shown = [self.labels == at if self.labels.ndim == 1 else self.labels[:, at] > 0 for at in classes]
        rows = [int(mask.argmax()) for mask in shown if mask.any()]
        return list(dict.fromkeys(rows or range(len(self))))[:MAX_SHOWN_IMAGES]

    def _figure(self, row: int) -> str:
        from graft_runtime import display

        label = self.take(np.array([row])).label_names()[0] or ""
        text = label if isinstance(label, str) else join_names(label)
        return display.figure(self.thumbnail(row, display.SIDE), self.name(row), display.escape_text(text))

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame with a row for each image: `file`, `label`, and any `split` and `group`.

        A label is a class name, None where it is unknown, or for multilabel a list of names. Where each image is a file
        and no class name has one of "|;,", `graft.fit` takes the table again. Raises UsageError where pandas is not
        installed.
        """
        pandas = extras.import_optional("pandas", "Dataset.to_dataframe")
        columns: dict[str, Any] = {"file": self.paths(), "label": pandas.Series(self.label_names(), dtype=object)}
        if (self.split != UNSPLIT).any():
            columns["split"] = [SPLITS[part] for part in self.split]
        if self.groups is not None:
            numbers = [None if group == UNGROUPED else int(group) for group in self.groups]
            columns["group"] = pandas.Series(numbers, dtype="Int64")
        return pandas.DataFrame(columns)

    def path(self, row: int) -> str:
        """Return where an image lies on the disk; '' for one in memory, in an archive, or that is a part of a file."""
        return str(Path(self.root) / self.name(row)) if isinstance(self.images, ImageFiles) else ""

    def paths(self) -> list[str]:
        """Return where each image lies on the disk or, where that is not a file of its own, its name."""
        return [self.path(row) or self.name(row) for row in range(len(self))]

    def label_names(self) -> list[Any]:
        """Return the class name of each image, None where it is unknown; for multilabel a list of names."""
        return label_names(self.labels, self.classes)

    def thumbnail(self, row: int, side: int) -> Thumbnail | None:
        """Return the thumbnail of an image, at most `side` pixels; None where it cannot be read."""
        try:
            return make_thumbnail(decode_pixels(self.read(row), side), side)
        except (image.ImageError, OSError):
            return None

    @property
    def root(self) -> str:
        """The place that the images come from, as shown to a person."""
        return self.images.root

    @property
    def task(self) -> str:
        """Whether an image has one label ('multiclass') or any number of them ('multilabel')."""
        return MULTILABEL if self.labels.ndim == 2 else MULTICLASS

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Return the data set with only these rows."""
        wanted = np.arange(len(self))[rows]
        groups = None if self.groups is None else self.groups[wanted]
        columns = {"labels": self.labels[wanted], "split": self.split[wanted], "groups": groups}
        return dataclasses.replace(self, images=self.images.take(wanted), **columns)

    def part(self, *codes: int) -> NDArray[np.intp]:
        """Return the rows of these parts of the split."""
        return np.flatnonzero(np.isin(self.split, codes))

    def name(self, row: int) -> str:
        """Return the name of an image, as shown to a person."""
        return self.images.name(row)

    def names(self) -> list[str]:
        """Return the names of all images."""
        return [self.images.name(row) for row in range(len(self))]

    def read(self, row: int) -> Raw:
        """Read an image as stored: the bytes of its file, or its pixels. Raises OSError or ImageError."""
        return self.images.read(row)

    def named(self, faults: Mapping[int, str]) -> dict[str, str]:
        """Return the faults by image name instead of row."""
        return {self.name(row): reason for row, reason in faults.items()}

    def counts(self) -> NDArray[np.intp]:
        """Count the images of each class, [classes]."""
        return count_labels(self.labels, len(self.classes))

    def targets(self) -> NDArray[np.float32]:
        """Return the labels as a matrix [n, classes]: 1 for each class of an image."""
        return label_matrix(self.labels, len(self.classes))


def label_names(labels: Labels, classes: Sequence[str]) -> list[Any]:
    """Return the class name of each label, None for UNLABELLED; for multilabel a list of names."""
    if labels.ndim == 2:
        return [[classes[at] for at in np.flatnonzero(row).tolist()] for row in labels]
    return [classes[label] if 0 <= label < len(classes) else None for label in labels.tolist()]


def count_labels(labels: NDArray[np.integer], classes: int) -> NDArray[np.intp]:
    """Count the images of each class, [classes]."""
    if labels.ndim == 2:
        return labels.sum(axis=0, dtype=np.intp)
    return np.bincount(labels[labels >= 0], minlength=classes)


def label_matrix(labels: NDArray[np.integer], classes: int) -> NDArray[np.float32]:
    """Return labels of either kind as a matrix [n, classes]; the row of an unlabelled image is all 0."""
    if labels.ndim == 2:
        return labels.astype(np.float32)
    return (labels[:, None] == np.arange(classes)).astype(np.float32)


def concatenate_groups(first: Dataset, second: Dataset) -> NDArray[np.int64] | None:
    """Concatenate the groups of two data sets; those of the second get new numbers."""
    if first.groups is None and second.groups is None:
        return None
    one, two = (np.full(len(each), UNGROUPED) if each.groups is None else each.groups for each in (first, second))
    apart = np.where(two < 0, UNGROUPED, two + one.max(initial=0) + 1)
    return np.concatenate([one, apart]).astype(np.int64)


def from_images(images: Any, labels: ArrayLike | None = None, classes: tuple[str, ...] = ()) -> Dataset:
    """Build a Dataset from paths, file bytes and images in memory: a single one, or any mixture of them.

    Raises DataError for anything else.
    """
    try:
        items = [_to_raw(inputs.as_image(each, row)) for row, each in enumerate(inputs.as_images(images))]
    except DataError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from error
    if all(isinstance(each, str) for each in items):
        return from_paths([str(each) for each in items], labels, classes)
    return _build_dataset(MixedImages(items, np.arange(len(items))), labels, classes)


def _to_raw(each: Any) -> Raw | str:
    """Return the name of a file, its bytes, or pixels."""
    if isinstance(each, PathLike):
        return str(fspath(each))
    return each if isinstance(each, str | bytes) else as_rgb(each)


def from_paths(paths: Sequence[str | Path], labels: ArrayLike | None = None, classes: tuple[str, ...] = ()) -> Dataset:
    """Build a Dataset from image files of your own choosing.

    `labels` are class indices [n] into `classes`, None or NaN where unknown, or a matrix of 0 and 1 [n, classes].
    Raises DataError for labels that fit neither, and for a file name that is not Unicode.

    >>> data = from_paths(["a.jpg", "b.jpg"], [0, 1], ("cat", "dog"))
    >>> data.counts().tolist()
    [1, 1]
    """
    try:
        names = ImageFiles.from_names([str(path) for path in paths])
    except UnicodeEncodeError as error:
        raise DataError(f"The file name {error.object!a} is not Unicode. Please rename the file.") from error
    return _build_dataset(names, labels, classes)


def from_arrays(images: Sequence[Any], labels: ArrayLike | None = None, classes: tuple[str, ...] = ()) -> Dataset:
    """Build a Dataset from images in memory: uint8 arrays [height, width] or [height, width, 3], or PIL images.

    `labels` and `classes` are as in `from_paths`. Raises DataError for labels that do not fit, and for other arrays.

    >>> len(from_arrays([np.zeros((8, 8, 3), np.uint8)], [0], ("black",)))
    1
    """
    return _build_dataset(InMemoryImages([as_rgb(each) for each in images]), labels, classes)


def _build_dataset(images: Images, labels: ArrayLike | None, classes: tuple[str, ...]) -> Dataset:
    known = np.full(len(images), UNLABELLED, np.int32) if labels is None else _convert_labels(labels, classes)
    return Dataset(images, known, classes, np.zeros(len(images), np.int8))


def _convert_labels(labels: ArrayLike, classes: tuple[str, ...]) -> Labels:
    """Return class indices, UNLABELLED for None and NaN, or a matrix of 0 and 1. One-hot rows become indices."""
    given = np.asarray(labels)
    if given.ndim == 2 and given.shape[1] == 1 != len(classes):
        given = given[:, 0]
    if given.ndim < 2:
        return _convert_indices(given, classes)
    if given.shape[1:] != (len(classes),) or not np.isin(given, (0, 1)).all():
        raise DataError(
            f"Several labels for each image are a table of 0 and 1, [images, {len(classes)} classes]. "
            f"Got {list(given.shape)}, from {given.min(initial=0)} to {given.max(initial=0)}."
        )
    if len(classes) > 1 and (given.sum(axis=1) == 1).all():
        return given.argmax(axis=1).astype(np.int32)
    return given.astype(np.uint8)


def _convert_indices(given: NDArray[Any], classes: tuple[str, ...]) -> NDArray[np.int32]:
    """Return one class index for each image; raises DataError for what indexes no class."""
    try:
        values = given.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise DataError(f"Labels are numbers that index the classes. Got {given.dtype}: {error}.") from error
    numbers = np.where(np.isnan(values), UNLABELLED, values)
    odd = (numbers != np.floor(numbers)) | (numbers < UNLABELLED) | (numbers >= (len(classes) or np.inf))
    if odd.any():
        legal = f"0 to {len(classes) - 1}, or {UNLABELLED} where it is unknown" if classes else "whole, from 0 on"
        raise DataError(f"Labels are numbers that index the classes, {legal}. Got {values[odd][0]:g}.")
    return numbers.astype(np.int32)


def as_rgb(pixels: Any) -> NDArray[np.uint8]:
    """Convert pixels in memory to uint8 [height, width, 3]; raises DataError for anything that is no image."""
    try:
        return image.from_pil(pixels) if isinstance(pixels, Image.Image) else image.from_array(np.asarray(pixels))
    except image.ImageError as error:
        raise DataError(f"An image in memory cannot be used: {error}.") from error
    except ValueError as error:
        raise DataError(str(error)) from error


def compute_digest(raw: Raw) -> bytes:
    """Return the digest of an image's content: the same bytes have the same digest wherever they lie."""
    if isinstance(raw, ContentDigest):
        return bytes(raw)
    shape = b"" if isinstance(raw, bytes) else str(raw.shape).encode()
    return hashlib.blake2b(raw if isinstance(raw, bytes) else raw.tobytes(), digest_size=DIGEST, key=shape).digest()


def decode_pixels(raw: Raw, min_side: int) -> NDArray[np.uint8]:
    """Decode an image to upright RGB pixels; see graft_runtime.image.decode. Raises ImageError."""
    if isinstance(raw, ContentDigest):
        raise image.ImageError("not at hand, and not in the cache")
    return image.decode(raw, enough=min_side) if isinstance(raw, bytes) else raw
