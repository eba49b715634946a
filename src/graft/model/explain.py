"""Why a classifier says what it says: the answer, and which places of the picture speak for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.errors import UsageError
from graft.model import pictures
from graft.model.classifier import Classifier, Prediction, as_dataset
from graft.model.heat import heat
from graft.progress import Watch, unwatched
from graft_runtime.card import MULTILABEL
from graft_runtime.screen import MANY, listed

DIM = 0.35  # of its brightness a place keeps that does not speak for the answer
BRIGHT = 99  # percentile of the heat from which on a place is shown as it is


@dataclass(frozen=True)
class Explanation:
    """An answer with its heat map.

    `label` is the class that is explained; `seen` the picture as the network saw it, uint8 [size, size, 3]; `heat`
    float32 [14, 14], how much each place speaks for the label (above 0) or against it.
    """

    prediction: Prediction
    label: str
    seen: NDArray[np.uint8]
    heat: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"<Explanation of {self.label} for {self.prediction.picture}>"

    def drawn(self) -> NDArray[np.uint8]:
        """The picture with its colours where it speaks for the label, dark and grey elsewhere: [size, size, 3]."""
        return drawn(self.seen, self.heat)


def drawn(seen: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture [height, width, 3] with its colours where the heat is high, dark and grey elsewhere."""
    height, width = seen.shape[:2]
    places = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC))
    share = (places / max(float(np.percentile(places, BRIGHT)), 1e-12)).clip(0, 1)[..., None]
    dim = DIM * seen.mean(axis=2, keepdims=True)
    return (dim + share * (seen - dim)).round().astype(np.uint8)


def explain(
    classifier: Classifier, images: Any, label: str | None = None, *, watch: Watch = unwatched
) -> Iterator[Explanation | Prediction]:
    """An Explanation of each picture, in order, for its own answer or for `label`; of an unknown one for the class that
    it is most like; for one that cannot be read, the Prediction with its fault. They are given as `Classifier.predict`
    takes them.

    Raises UsageError for a label that the classifier does not know, and for a network that keeps no map of places.
    """
    if label is not None and label not in classifier.classes:
        raise UsageError(f"The classifier does not know {label!r}. It knows {listed(classifier.classes, MANY)}.")
    data = as_dataset(images)
    predictions = classifier.predict(data)
    prepare = partial(pictures.prepared, classifier.network.preprocess)
    for picture in pictures.each(data, prepare, watch):
        prediction = predictions[picture.row]
        if picture.made is None or prediction.answer is None:
            yield prediction
        else:
            yield _explained(classifier, prediction, picture.made, label or prediction.answer.label)


def _explained(classifier: Classifier, prediction: Prediction, seen: NDArray[np.uint8], label: str) -> Explanation:
    several = classifier.card.task == MULTILABEL
    at = classifier.classes.index(label)
    places = heat(classifier.network, seen[None], [at], several)[0]
    return Explanation(prediction, label, np.ascontiguousarray(seen.transpose(1, 2, 0)), places)
