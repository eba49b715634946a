"""How a classifier answered its test pictures, as a report asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graft.model.classifier import Classifier
from graft.model.memory import Exam
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import UNSURE
from graft_runtime.screen import listed

NOTHING = "(none)"  # what a picture without a label shows


@dataclass(frozen=True, eq=False)
class Answers:
    """The remembered test pictures with their answers, for one label a picture or `several`."""

    exam: Exam
    classes: tuple[str, ...]
    several: bool
    thresholds: NDArray[np.float64]  # [classes], for several labels

    @classmethod
    def of(cls, classifier: Classifier, exam: Exam) -> Answers:
        """Those that a classifier remembers."""
        card = classifier.card
        limits = np.array(card.thresholds or [UNSURE] * len(card.classes))
        return cls(exam, card.classes, card.task == MULTILABEL, limits)

    def __len__(self) -> int:
        return len(self.exam)

    @cached_property
    def said(self) -> NDArray[np.intp] | NDArray[np.bool_]:
        """The answer: a class [n], or of several labels those given [n, classes]."""
        if self.several:
            return self.chances >= self.thresholds
        best = self.exam.chances.argmax(axis=1)
        return np.take_along_axis(self.exam.columns, best[:, None], axis=1)[:, 0].astype(np.intp)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which pictures are answered right, all their labels of them, [n]."""
        if self.several:
            return (self.said == (self.exam.labels > 0)).all(axis=1)
        return self.said == self.exam.labels

    @cached_property
    def sure(self) -> NDArray[np.float32]:
        """How sure each answer is, [n]: its probability; of several labels, how far off the most mistaken one is."""
        if self.several:
            return np.where(self.said != self.truth, np.abs(self.chances - self.truth), 0).max(axis=1)
        return self.exam.chances.max(axis=1)

    @cached_property
    def chances(self) -> NDArray[np.float32]:
        """The probability of every class [n, classes]; 0 where it was too small to be kept."""
        whole = np.zeros((len(self), len(self.classes)), np.float32)
        np.put_along_axis(whole, self.exam.columns, self.exam.chances, axis=1)
        return whole

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which classes each picture shows, [n, classes]."""
        labels = self.exam.labels
        return labels > 0 if self.several else labels[:, None] == np.arange(len(self.classes))

    def words(self, row: int) -> tuple[str, str]:
        """(what a picture shows, what was answered)."""
        if not self.several:
            return self.classes[self.exam.labels[row]], self.classes[self.said[row]]
        return self._listed(self.exam.labels[row]), self._listed(self.said[row])

    @cached_property
    def nothing(self) -> str:
        """What stands for no label: no class is called so."""
        said = NOTHING
        while said in self.classes:
            said = f"({said})"
        return said

    def surest(self, most: int) -> list[int]:
        """The mistakes, surest first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.sure[wrong], kind="stable")][:most].tolist()

    def blamed(self, row: int) -> int:
        """The class whose answer is to be explained: the one given, or of several labels the most mistaken one."""
        if not self.several:
            return int(self.said[row])
        off = np.abs(self.chances[row] - self.truth[row])
        return int(np.where(self.said[row] != self.truth[row], off, -1).argmax())

    def _listed(self, row: NDArray[np.generic]) -> str:
        return listed([self.classes[at] for at in np.flatnonzero(row)]) or self.nothing
