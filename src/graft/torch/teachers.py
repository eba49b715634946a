"""Distillation (Hinton et al. 2015): the mean probabilities of saved classifiers as targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.data.dataset import Dataset
from graft.errors import DataError, UsageError
from graft.model.classifier import Classifier, load
from graft.training.recipe import Recipe, teachers
from graft_runtime.screen import MANY, listed


def check(recipe: Recipe, data: Dataset) -> None:
    """Load each teacher, before anything heavy; raises ModelError, or UsageError for one of other classes."""
    for name in teachers(recipe):
        _check_classes(name, load(name), data.classes)


def soft(recipe: Recipe, data: Dataset) -> Tensor:
    """Targets [n, classes]: the mean of the teachers' probabilities, one teacher in memory at a time."""
    names = teachers(recipe)
    total = np.zeros((len(data), len(data.classes)))
    for name in names:
        total += _probabilities(name, data)
    return torch.from_numpy((total / len(names)).astype(np.float32))


def _probabilities(name: str, data: Dataset) -> NDArray[np.floating]:
    """What one teacher says, [n, classes], its classes in the order of the data set's."""
    teacher = load(name)
    _check_classes(name, teacher, data.classes)
    probs, good, faults = teacher.probabilities(data)
    if len(good) < len(data):
        raise DataError(f"The teacher {name} cannot judge every image: {next(iter(faults.values()))}.")
    return probs[:, [teacher.classes.index(each) for each in data.classes]]


def _check_classes(name: str, teacher: Classifier, classes: Sequence[str]) -> None:
    if set(teacher.classes) != set(classes):
        raise UsageError(
            f"The teacher {name} knows other classes: {listed(teacher.classes, MANY)}. "
            f"The images have {listed(classes, MANY)}."
        )
