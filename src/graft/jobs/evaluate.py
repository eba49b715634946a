"""A saved classifier's score on other labelled pictures."""

from __future__ import annotations

from pathlib import Path

from graft.data.dataset import Dataset
from graft.data.read.source import read_source
from graft.jobs.direct import opened, relabelled
from graft.model.classifier import Classifier
from graft.model.multilabel import Score
from graft.progress import Watch, unwatched


def evaluate(classifier: str | Path | Classifier, source: str | Path | Dataset, *, watch: Watch = unwatched) -> Score:
    """The score of a classifier, of the one saved in a folder, or of a network by name; see Classifier.evaluate.

    A network with its own pretrained classes knows a class folder by any of the names that ImageNet has for it.
    """
    judge = opened(classifier)
    if judge.card.strategy == "direct":
        source = relabelled(source if isinstance(source, Dataset) else read_source(source, watch=watch), judge)
    return judge.evaluate(source, watch=watch)
