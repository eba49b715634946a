"""The pictures that an export is checked on: the user's own that were held out, or made ones of many sizes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.data import dataset as table
from graft.data.dataset import TEST, Dataset
from graft.data.images import InMemory
from graft.data.read.folder import loose
from graft.data.read.source import read_source
from graft.errors import DataError
from graft.jobs.direct import relabelled
from graft.model import pictures, scoring
from graft.model.classifier import Classifier
from graft.progress import Watch
from graft_runtime.card import MULTILABEL
from graft_runtime.walk import is_image

MOST = 500  # pictures that are checked: the network runs twice over each
SAMPLES = 100  # pictures that the ranges of whole numbers are found on
HELD_OUT, GIVEN, MADE = "held out", "given", "made"
SIZES = (  # height, width: strips, panoramas, exactly the network's size, photos
    *((1, 1), (1, 300), (300, 1), (2, 3), (37, 91), (64, 512), (1600, 400), (224, 224), (255, 257)),
    *((300, 400), (480, 640), (683, 512), (1023, 767), (1200, 1800)),
)


@dataclass(frozen=True)
class Evidence:
    """Pictures to check on and, of the same kind, some others; where they come from; whether they have labels."""

    data: Dataset
    others: Dataset
    origin: str
    labelled: bool


def gathered(classifier: Classifier, source: Any, watch: Watch) -> Evidence:
    """Of the source those pictures that the classifier was tested on or, without any, those that it never saw.

    A folder that holds pictures, not folders of them, has no labels. Without a source, pictures are made. Raises
    DataError for a source without pictures, or of other classes.
    """
    if source is None:
        return Evidence(made(), made(), MADE, False)
    data, labelled = _read(classifier, source, watch)
    rows, held_out = _held_out(classifier, data, watch)
    if not len(rows):
        raise DataError(f"Not one picture in {source} can be read.")
    chosen = spread(rows, MOST)
    others = np.setdiff1d(np.arange(len(data)), chosen)
    others = spread(others if len(others) else chosen, SAMPLES)
    return Evidence(data.take(chosen), data.take(others), HELD_OUT if held_out else GIVEN, labelled)


def made() -> Dataset:
    """Pictures of many sizes, as files: soft blobs with noise, PNG and JPEG in turn; always the same."""
    rng = np.random.default_rng(0)
    files = []
    for number, (height, width) in enumerate(SIZES):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
        noise = rng.normal(0, 10, (height, width, 3))
        pixels = np.clip(np.asarray(blobs) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG" if number % 2 else "PNG")
        files.append(file.getvalue())
    return Dataset(InMemory(files), np.full(len(files), -1, np.int32), (), np.zeros(len(files), np.int8))


def _read(classifier: Classifier, source: Any, watch: Watch) -> tuple[Dataset, bool]:
    if isinstance(source, str | Path) and (files := _loose(Path(source))):
        return table.from_paths(files), False
    if classifier.card.strategy == "direct":
        return relabelled(read_source(source, watch=watch), classifier), True
    several = classifier.card.task == MULTILABEL
    data = read_source(source, classifier.classes, several=several, watch=watch)
    return scoring.matched(data, classifier.card), True


def _loose(path: Path) -> list[Path]:
    """The pictures that lie in the folder itself, unless it is a table of them; or the one picture."""
    if path.is_file() and is_image(path.name):
        return [path]
    return [path / name for name in loose(path)]


def _held_out(classifier: Classifier, data: Dataset, watch: Watch) -> tuple[NDArray[np.intp], bool]:
    """(rows to check on, whether they are held out), by what the classifier remembers and the source's own split."""
    seen = [each for each in pictures.each(data, table.digest, watch) if each.made is not None]
    rows = np.array([each.row for each in seen], np.intp)
    memory = classifier.memory
    tested = {digest.tobytes() for digest in memory.tested.digests} if memory and memory.tested else set[bytes]()
    if (known := np.array([each.made in tested for each in seen], bool)).any():
        return rows[known], True
    if (data.split == TEST).any():
        return np.intersect1d(rows, data.part(TEST)), True
    digests = np.frombuffer(b"".join(each.made or b"" for each in seen), np.uint8).reshape(-1, table.DIGEST)
    fresh = ~memory.seen(digests) if memory and len(rows) else np.zeros(len(rows), bool)
    return (rows[fresh], True) if fresh.any() else (rows, False)


def spread(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many of the rows, evenly from all."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]
