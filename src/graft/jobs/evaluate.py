"""Evaluate a classifier on other labelled images, and compare two classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graft.data.readers.source import read_source
from graft.jobs.direct import open_classifier, relabel_dataset
from graft.metrics.evaluation import Score
from graft.model import storage
from graft.model.classifier import Classifier
from graft.model.scoring import ComparedClassifier, Comparison, compare
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.card import MULTILABEL


def evaluate(
    classifier: str | Path | Classifier,
    source: Any,
    *,
    against: Any = None,
    columns: str = "",
    boxes: bool = False,
    watch: ProgressWrapper = no_progress,
) -> Score:
    """Evaluate a classifier, the one saved in a folder, or a network by name; see Classifier.evaluate.

    With `against` the source is one class, called like its folder, and `against` the rest, as in `graft.fit`; for a
    classifier of one class against the rest the folder may have any name. With `boxes` each object that the source
    marks is an image. For a network with its own pretrained classes, class folders may have any of ImageNet's names.

    >>> import graft
    >>> graft.evaluate("model/", "photos/").accuracy  # doctest: +SKIP
    0.94
    """
    model = open_classifier(classifier)
    if model.card.strategy == "direct":
        data = relabel_dataset(read_source(source, columns=columns, boxes=boxes, against=against), model)
    else:
        multilabel = model.card.task == MULTILABEL
        data = read_source(source, model.classes, columns, boxes=boxes, against=against, several=multilabel)
    return model.evaluate(data, watch=watch)


def compare_runs(first: str | Path | Classifier, second: str | Path | Classifier) -> Comparison:
    """Compare two classifiers: is the first better than the second, worse, or not distinguishable?

    Both are compared by their stored predictions on the test images that they share: no image is needed. Raises
    DataError where they share none.

    >>> compare_runs("model-1/", "model-2/").verdict  # doctest: +SKIP
    'not distinguishable'
    """
    return compare(_side(first, "The first"), _side(second, "The second"))


def _side(model: str | Path | Classifier, name: str) -> ComparedClassifier:
    """Return a classifier's stored predictions; those of a saved one are read without its network."""
    if isinstance(model, Classifier):
        card, memory = model.card, model.memory
    else:
        name, card = str(model), storage.read_card(Path(model))
        memory = storage.read_memory(Path(model), card)
    return ComparedClassifier(name, card.task, card.classes, card.thresholds, memory)
