"""Why: for each picture a drawing of what speaks for the answer, beside the picture as the network saw it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graft.errors import OutputError
from graft.jobs import outputs
from graft.jobs.direct import opened
from graft.jobs.predict import files
from graft.model import whole
from graft.model.classifier import Classifier
from graft.model.explain import Explanation
from graft.model.explain import explain as explained
from graft.progress import Watch, unwatched

Why = dict[str, Any]


def explain(
    classifier: str | Path | Classifier,
    images: Sequence[str | Path],
    output: str | Path,
    *,
    label: str | None = None,
    force: bool = False,
    watch: Watch = unwatched,
) -> list[Why]:
    """Draw what speaks for each picture's answer, or for `label`, into a folder: one PNG for each picture.

    Gives for each picture its name, answer, probability and probabilities, the label that is explained, and `drawing`,
    the PNG: on the left the picture as the network saw it, on the right the same with colours only where it speaks for
    the label. A picture that cannot be read has a fault and no drawing. A folder stands for all pictures in it.

    Raises DataError for a path that is not there, UsageError for an unknown label, and OutputError rather than
    overwrite a drawing, unless `force`.

    >>> explain("model/", ["photo.jpg"], "why/")[0]["drawing"]  # doctest: +SKIP
    'why/photo.png'
    """
    judge, paths = opened(classifier), list(files(images))
    places = list(_places(paths, Path(output)))
    if taken := [place for place in places if place.exists() and not force]:
        raise OutputError(f"{taken[0]} is there already. Use --force to replace it, or choose another folder.")
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        whole.sweep(Path(output), {place.name for place in places})
        made = explained(judge, [str(path) for path in paths], label, watch=watch)
        return [_drawn(each, place) for each, place in zip(made, places, strict=True)]
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error


def _places(paths: Sequence[Path], folder: Path) -> Iterator[Path]:
    """Where each drawing goes: called as the picture, with a number where two are called the same."""
    taken = set[str]()
    for path in paths:
        names = (path.stem if not count else f"{path.stem}-{count + 1}" for count in range(len(paths)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield folder / f"{name}.png"


def _drawn(each: Any, place: Path) -> Why:
    if not isinstance(each, Explanation):
        return each.as_dict() | {"explained": "", "drawing": ""}
    drawing = io.BytesIO()
    Image.fromarray(np.concatenate([each.seen, each.drawn()], axis=1)).save(drawing, "PNG")
    outputs.write(place, drawing.getvalue())
    return each.prediction.as_dict() | {"explained": each.label, "drawing": str(place)}
