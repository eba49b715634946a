"""The training pictures that an exported file may show as the nearest, for those who ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import DIGEST, digest, pixels
from graft.data.read.source import read_source
from graft.errors import DataError, ExportError
from graft.jobs.thumbnail import thumbnail
from graft.model import pictures
from graft.model.classifier import Classifier
from graft.progress import Watch
from graft_runtime.contract import Witness

SIDE = 96  # pixels along the longer side of a thumbnail: 3 kB


def witnesses(classifier: Classifier, source: Any, watch: Watch) -> tuple[Witness, ...]:
    """The training pictures whose features the classifier stores, in order, with thumbnails of those in the source.

    They are found by name, and shown only if their content was trained on: a file that has changed since is no
    evidence. Raises ExportError for a classifier without any, DataError for a source that holds none of them.
    """
    memory = classifier.memory
    if memory is None or memory.known is None or not len(memory.known.features):
        raise ExportError(
            "This classifier stores no training pictures to show as evidence: it was not trained by `graft fit`, or "
            "has so many classes that one picture of each finds no room. Leave --evidence out."
        )
    known = memory.known
    data = read_source(source, classifier.classes, watch=watch)
    rows = {data.name(row): row for row in reversed(range(len(data)))}
    there = [name for name in known.names if name in rows]

    def look(raw: bytes | NDArray[np.uint8]) -> tuple[bytes, str]:
        return digest(raw), thumbnail(pixels(raw, SIDE), SIDE).code

    made = pictures.each(data.take(np.array([rows[name] for name in there], np.intp)), look, watch)
    found = {there[each.row]: each.made for each in made if each.made}
    seen = memory.seen(np.frombuffer(b"".join(named for named, _ in found.values()), np.uint8).reshape(-1, DIGEST))
    shown = {name: code for (name, (_, code)), same in zip(found.items(), seen, strict=True) if same}
    if not shown:
        raise DataError(
            f"Not one of the {len(known.names):,} training pictures of this classifier, such as {known.names[0]}, is "
            f"in {source if isinstance(source, str | Path) else 'this source'}. Name the photos that it was trained on."
        )
    labels = (classifier.named(label) for label in known.labels)
    return tuple(Witness(name, own, shown.get(name)) for name, own in zip(known.names, labels, strict=True))
