"""A saved classifier's score on other labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graft.data.read.source import read_source
from graft.jobs.direct import opened, relabelled
from graft.model.classifier import Classifier
from graft.model.multilabel import Score
from graft.progress import Watch, unwatched
from graft_runtime.card import MULTILABEL


def evaluate(
    classifier: str | Path | Classifier,
    source: Any,
    *,
    against: Any = None,
    columns: str = "",
    boxes: bool = False,
    watch: Watch = unwatched,
) -> Score:
    """The score of a classifier, of the one saved in a folder, or of a network by name; see Classifier.evaluate.

    With `against` the source is one class, called like its folder, and `against` the rest, as in `graft.fit`; for a
    classifier of one class against the rest the folder may have any name. With `boxes` each object that the source
    marks is a picture. A network with its own pretrained classes knows a class folder by any of the names that ImageNet
    has for it.
    """
    judge = opened(classifier)
    if judge.card.strategy == "direct":
        data = relabelled(read_source(source, columns=columns, boxes=boxes, against=against), judge)
    else:
        several = judge.card.task == MULTILABEL
        data = read_source(source, judge.classes, columns, boxes=boxes, against=against, several=several)
    return judge.evaluate(data, watch=watch)
