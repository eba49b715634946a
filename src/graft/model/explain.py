"""Saliency maps: class activation maps where they are exact, occlusion maps elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.errors import UsageError
from graft.features.embed import load_each, prepare_image
from graft.heads.head import Head
from graft.model.classifier import Classifier, as_dataset
from graft.model.network import Network, exact_map_outputs
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.card import MULTILABEL
from graft_runtime.formatting import MAX_NAMES, join_names
from graft_runtime.prediction import Prediction
from graft_runtime.terminal import escape_breaks
from graft_runtime.thumbnail import make_thumbnail

GRID = 14  # cells along a side; a network's last map has 7 or 14
OCCLUSION_GRID = 7  # cells along a side that are covered one by one; divides GRID
MIN_BRIGHTNESS = 0.35  # share of its brightness that a cell of saliency 0 or less keeps
BRIGHT_PERCENTILE = 99  # of the saliency, from which on a cell is shown unchanged

Logits = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


def saliency_maps(
    network: Network, images: NDArray[np.uint8], classes: Sequence[int], multilabel: bool = False
) -> NDArray[np.float32]:
    """Compute saliency maps [n, GRID, GRID] of images [n, 3, size, size], one class each.

    Positive cells support the class, negative ones oppose it. The quantity explained is the class's logit minus the
    mean of all logits, as only differences count in a softmax; with `multilabel`, the logit itself. For a linear head
    on averages the cells add up to it, except for the bias.
    """
    if exact := exact_map_outputs(network.features, network.head):
        return class_activation_maps(
            network.features.graph.runner.run(images, exact), network.head, classes, multilabel
        )
    return occlusion_maps(network, images, classes, multilabel)


def class_activation_maps(
    maps: Sequence[NDArray[np.float32]], head: Head, classes: Sequence[int], multilabel: bool = False
) -> NDArray[np.float32]:
    """Compute class activation maps (Zhou et al. 2016) from the maps [n, c, h, w] that a linear head reads."""
    tensors: dict[str, NDArray[Any]] = dict(head.tensors)
    weight = tensors["judge.weight"] * tensors["scale"]
    own = (weight if multilabel else weight - weight.mean(axis=0))[list(classes)]
    parts = np.split(own, np.cumsum([part.shape[1] for part in maps])[:-1], axis=1)
    places = (_resample_to_grid(_place_contributions(each, part)) for each, part in zip(parts, maps, strict=True))
    return np.asarray(sum(places), np.float32)


def _place_contributions(weight: NDArray[np.floating], part: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what each cell of maps [n, c, h, w] adds to a logit, by weights [n, c]: [n, h, w]."""
    count, channels, height, width = part.shape
    flat = part.reshape(count, channels, height * width)
    return (weight[:, None] @ flat).reshape(count, height, width).astype(np.float32) / (height * width)


def _resample_to_grid(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resample maps [n, h, w] to GRID x GRID cells with the same total."""
    height, width = places.shape[1:]
    grid = _averaging_matrix(height) @ places @ _averaging_matrix(width).T * (height * width / GRID**2)
    rest = places.sum(axis=(1, 2)) - grid.sum(axis=(1, 2))  # cells of uneven grids overlap
    return np.asarray(grid + rest[:, None, None] / GRID**2, np.float32)


def _averaging_matrix(count: int) -> NDArray[np.float32]:
    """Return the matrix [GRID, count] that averages the cells that each cell of the grid touches."""
    step = np.arange(GRID + 1) * count
    first, last = step[:-1] // GRID, -(-step[1:] // GRID)
    at = np.arange(count)
    inside = (at >= first[:, None]) & (at < last[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def occlusion_maps(
    logits: Logits, images: NDArray[np.uint8], classes: Sequence[int], multilabel: bool = False
) -> NDArray[np.float32]:
    """Compute how much the same logit falls when a cell is covered with the image's mean colour: [n, GRID, GRID].

    Takes OCCLUSION_GRID^2 + 1 forward passes per image.
    """
    found = [_logit_drops(logits, image, own, multilabel) for image, own in zip(images, classes, strict=True)]
    times = GRID // OCCLUSION_GRID
    whole = np.array(found, np.float32).reshape(len(images), OCCLUSION_GRID, OCCLUSION_GRID)
    return whole.repeat(times, axis=1).repeat(times, axis=2) / np.float32(times**2)


def _logit_drops(logits: Logits, image: NDArray[np.uint8], own: int, multilabel: bool) -> NDArray[np.floating]:
    size = image.shape[-1]
    edges = [round(size * at / OCCLUSION_GRID) for at in range(OCCLUSION_GRID + 1)]
    changed = np.repeat(image[None], OCCLUSION_GRID**2 + 1, axis=0)  # the last one stays unchanged
    mean = image.mean(axis=(1, 2)).round().astype(np.uint8)[:, None, None]
    for place in range(OCCLUSION_GRID**2):
        row, column = divmod(place, OCCLUSION_GRID)
        changed[place, :, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = mean
    found = logits(changed)
    class_logits = found[:, own] if multilabel else found[:, own] - found.mean(axis=1)
    return class_logits[-1] - class_logits[:-1]


# --- explanations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """A prediction with its saliency map.

    `label` is the class that is explained; `image` the preprocessed image, uint8 [size, size, 3]; `saliency` float32
    [14, 14], how much each cell supports the label (above 0) or opposes it.
    """

    prediction: Prediction
    label: str
    image: NDArray[np.uint8]
    saliency: NDArray[np.float32]

    def __repr__(self) -> str:
        return escape_breaks(f"<Explanation of {self.label} for {self.prediction.image}>")

    def _repr_html_(self) -> str:
        from graft_runtime import display  # here, as only a notebook needs it

        small = (make_thumbnail(each, display.SIDE) for each in (self.image, self.draw()))
        captions = ("as the network received it", "in colour where it supports the label")
        return display.block(
            f"What speaks for {self.label}",
            display.note(self.prediction.image),
            display.side_by_side(
                *(display.figure(each, caption, caption) for each, caption in zip(small, captions, strict=True))
            ),
        )

    def draw(self) -> NDArray[np.uint8]:
        """Draw the image in colour where it supports the label, dark and grey elsewhere: [size, size, 3]."""
        return draw_saliency(self.image, self.saliency)


def draw_saliency(image: NDArray[np.uint8], saliency: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw an image [height, width, 3] in colour where the saliency is high, dark and grey elsewhere."""
    height, width = image.shape[:2]
    places = np.asarray(Image.fromarray(saliency).resize((width, height), Image.Resampling.BICUBIC))
    share = (places / max(float(np.percentile(places, BRIGHT_PERCENTILE)), 1e-12)).clip(0, 1)[..., None]
    dim = MIN_BRIGHTNESS * image.mean(axis=2, keepdims=True)
    return (dim + share * (image - dim)).round().astype(np.uint8)


def explain(
    classifier: Classifier, images: Any, label: str | None = None, *, watch: ProgressWrapper = no_progress
) -> Iterator[Explanation | Prediction]:
    """Yield an Explanation of each image, in order, for its predicted class or for `label`.

    An unknown image is explained for its most likely class; for one that cannot be read, the Prediction with its
    fault is yielded. Images are given as for `Classifier.predict`. Raises UsageError for a label that the classifier
    does not know.
    """
    if label is not None and label not in classifier.classes:
        raise UsageError(
            f"The classifier does not know {label!r}. It knows {join_names(classifier.classes, MAX_NAMES)}."
        )
    data = as_dataset(images)
    predictions = classifier.predict(data)
    prepare = partial(prepare_image, classifier.network.preprocess)
    for image in load_each(data, prepare, watch):
        prediction = predictions[image.row]
        if image.value is None or prediction.answer is None:
            yield prediction
        else:
            yield _explain_image(classifier, prediction, image.value, label or prediction.answer.label)


def _explain_image(classifier: Classifier, prediction: Prediction, image: NDArray[np.uint8], label: str) -> Explanation:
    multilabel = classifier.card.task == MULTILABEL
    at = classifier.classes.index(label)
    places = saliency_maps(classifier.network, image[None], [at], multilabel)[0]
    return Explanation(prediction, label, np.ascontiguousarray(image.transpose(1, 2, 0)), places)
