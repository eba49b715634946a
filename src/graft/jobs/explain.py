"""Draw saliency maps of images, each beside the image as the network received it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graft import atomic
from graft.errors import OutputError
from graft.jobs import outputs
from graft.jobs.direct import open_classifier
from graft.jobs.predict import list_images
from graft.model.classifier import Classifier
from graft.model.explain import Explanation
from graft.model.explain import explain as explained
from graft.progress import ProgressWrapper, no_progress

ExplanationDict = dict[str, Any]


def explain(
    classifier: str | Path | Classifier,
    images: Sequence[str | Path],
    output: str | Path,
    *,
    label: str | None = None,
    force: bool = False,
    watch: ProgressWrapper = no_progress,
) -> list[ExplanationDict]:
    """Draw the saliency map of each image's prediction, or of `label`, into a folder: one PNG per image.

    Return for each image its name, prediction, probability and probabilities, the label that is explained, and
    `drawing`, the PNG: on the left the image as the network received it, on the right the same, in colour only where
    it supports the label. An image that cannot be read has a fault and no drawing. A folder stands for all its images.

    Raises DataError for a path that does not exist, UsageError for an unknown label, and OutputError rather than
    overwrite a drawing, unless `force`.

    >>> explain("model/", ["photo.jpg"], "why/")[0]["drawing"]  # doctest: +SKIP
    'why/photo.png'
    """
    model, paths = open_classifier(classifier), list(list_images(images))
    places = list(_drawing_paths(paths, Path(output)))
    if taken := [place for place in places if place.exists() and not force]:
        raise OutputError(f"{taken[0]} is there already. Use --force to replace it, or choose another folder.")
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(Path(output), {place.name for place in places})
        made = explained(model, [str(path) for path in paths], label, watch=watch)
        return [_save_drawing(each, place) for each, place in zip(made, places, strict=True)]
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error


def _drawing_paths(paths: Sequence[Path], folder: Path) -> Iterator[Path]:
    """Yield the path of each drawing: the image's name, with a number where two have the same."""
    taken = set[str]()
    for path in paths:
        names = (path.stem if not count else f"{path.stem}-{count + 1}" for count in range(len(paths)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield folder / f"{name}.png"


def _save_drawing(each: Any, place: Path) -> ExplanationDict:
    if not isinstance(each, Explanation):
        return each.as_dict() | {"explained": "", "drawing": ""}
    drawing = io.BytesIO()
    Image.fromarray(np.concatenate([each.image, each.draw()], axis=1)).save(drawing, "PNG")
    outputs.write(place, drawing.getvalue())
    return each.prediction.as_dict() | {"explained": each.label, "drawing": str(place)}
