"""A saved classifier's score on other labelled pictures."""

from __future__ import annotations

from pathlib import Path

from graft.data.dataset import Dataset
from graft.model.classifier import Classifier, load
from graft.model.multilabel import Score
from graft.progress import Watch, unwatched


def evaluate(classifier: str | Path | Classifier, source: str | Path | Dataset, *, watch: Watch = unwatched) -> Score:
    """The score of a classifier, or of the one saved in a folder; see Classifier.evaluate."""
    judge = classifier if isinstance(classifier, Classifier) else load(classifier)
    return judge.evaluate(source, watch=watch)
