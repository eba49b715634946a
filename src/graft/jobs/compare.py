"""Two saved classifiers, judged by the test pictures that both were scored on."""

from __future__ import annotations

from pathlib import Path

from graft.model import storage
from graft.model.classifier import Classifier
from graft.model.compare import Comparison, Side, compare


def compare_runs(first: str | Path | Classifier, second: str | Path | Classifier) -> Comparison:
    """Whether the first classifier is better than the second, worse, or not distinguishable.

    Both are judged by how they answered the test pictures that they share, which each remembers: no picture is needed.
    Raises DataError where they share none.

    >>> compare_runs("model-1/", "model-2/").verdict  # doctest: +SKIP
    'not distinguishable'
    """
    return compare(_side(first, "The first"), _side(second, "The second"))


def _side(model: str | Path | Classifier, name: str) -> Side:
    """A classifier's answers; those of a saved one are read without its network."""
    if isinstance(model, Classifier):
        card, memory = model.card, model.memory
    else:
        name, card = str(model), storage.read_card(Path(model))
        memory = storage.read_memory(Path(model), card)
    return Side(name, card.task, card.classes, card.thresholds, memory)
