"""Recipe: the hyperparameters of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from graft import spec
from graft.errors import UsageError

Auto = Literal["auto"]

CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "momentum", "nesterov", "adam", "adamw", "adagrad", "adadelta", "rmsprop"),
    "schedule": ("constant", "step", "multi-step", "cosine", "restarts", "one-cycle", "plateau", "high-low"),
    "loss": ("auto", "cross-entropy", "focal", "mse", "kl", "bce", "asymmetric"),
    "balance": ("none", "weights", "sampler", "logits"),
    "batch_norm": ("frozen", "train"),
    "metric": ("loss", "accuracy", "balanced-accuracy", "macro-f1", "micro-f1", "auc", "map"),
    "blend": ("auto", "none"),
}
FRACTIONS = ("warmup", "smoothing", "ema")  # from 0 to below 1
POSITIVE = ("accumulate",)
RATE_FACTORS = ("backbone_rate", "layer_decay")
TEACHER_SEPARATOR = "+"  # of teachers

MAX_AUTO_BATCH = 16  # images in an automatic batch: for as many images looked at, more updates than with larger ones
LARGE_BATCH = 32  # with LARGE_SET images or more, when there are updates enough
LARGE_SET = 5000
MIN_AUTO_STEPS = 8  # updates that an automatic batch leaves in an epoch of few images
MIN_UPDATES = 300  # of automatic epochs: with fewer, a new head and what lies below it are not at their best yet
MIN_EPOCHS = 8  # of them, however many images there are

Task = Literal["multiclass", "multilabel"]
MULTILABEL_LOSSES = ("asymmetric", "bce", "focal", "mse")  # losses for several labels an image
SINGLE_LABEL_LOSSES = ("cross-entropy", "kl")  # and those for one label alone


@dataclass(frozen=True)
class Recipe:
    """How to train. Rates are those of the head; below it they are `backbone_rate` times as high, and `layer_decay`
    multiplies them once more for each stage further down.

    `epochs` passes over the images in steps of `batch`, of which `accumulate` make one update; `auto` depends on the
    number of images (`settle`). `rate=auto` finds the rate by a range test (Smith 2017). `warmup` is the share of all
    updates in which the rate rises from 0; one-cycle has a rise of its own instead. `smoothing` moves the targets of
    every loss. `patience` stops after so many epochs without a better `metric` on the validation images (0: never); the
    best epoch counts in any case. `blend=auto` also tries the mean of the epochs, and weights between the start and the
    best epoch (Wortsman et al. 2022, WiSE-FT), and keeps what the validation images speak for. `refit` then trains on
    for a while, at a lower rate, on all images, those held out for validation included; `auto` does so with few images,
    where each counts. `teacher` is the folder of a saved classifier whose probabilities are the targets of `loss=kl`;
    of several, joined by '+', it is their mean.
    """

    epochs: int | Auto = "auto"
    batch: int | Auto = "auto"
    optimizer: str = "adamw"
    rate: float | Auto = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.1
    backbone_rate: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    l1: float = 0.0
    l2_sp: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    ema: float = 0.0
    loss: str = "auto"
    smoothing: float = 0.0
    teacher: str = ""
    mixup: float = 0.0
    cutmix: float = 0.0
    balance: str = "none"
    augment: str = "light"
    batch_norm: str = "frozen"
    metric: str = "loss"
    patience: int = 0
    blend: str = "auto"
    refit: bool | Auto = "auto"

    def __post_init__(self) -> None:
        for name, legal in CHOICES.items():
            if getattr(self, name) not in legal:
                given = getattr(self, name)
                raise UsageError(
                    f"{name!r} must be one of {', '.join(legal)}. Got {given!r}.{spec.format_suggestions(given, legal)}"
                )
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
        if (self.loss == "kl") != bool(self.teacher):
            raise UsageError("'loss=kl' and 'teacher' belong together: the teacher's probabilities are its targets.")

    def settle(self, images: int, phases: int = 1) -> SettledRecipe:
        """Return the recipe with numbers in place of `auto`, for so many images and phases; `rate` stays.

        A batch is a power of two from 4 to 16, or 32 of many, that leaves MIN_AUTO_STEPS updates in an epoch. There are
        MIN_EPOCHS, and with few images as many more as it takes to update the weights MIN_UPDATES times.
        """
        batch = self.batch
        if batch == "auto":
            largest = LARGE_BATCH if images >= LARGE_SET else MAX_AUTO_BATCH
            batch = min(largest, max(4, 2 ** int(math.log2(max(images / MIN_AUTO_STEPS, 1)))))
        epochs = self.epochs
        if epochs == "auto":
            updates = math.ceil(images / (batch * self.accumulate))
            epochs = max(MIN_EPOCHS, phases, math.ceil(MIN_UPDATES / max(updates, 1)))
        settled: dict[str, Any] = {**vars(self), "batch": batch, "epochs": epochs}
        return SettledRecipe(**settled)


@dataclass(frozen=True)
class SettledRecipe(Recipe):
    """A recipe for a number of images that is known: nothing but the rate is left to be found."""

    epochs: int = MIN_EPOCHS
    batch: int = MAX_AUTO_BATCH


def list_teachers(recipe: Recipe) -> tuple[str, ...]:
    """Return the folders of the teachers: 'a+b' are two, unless there is a folder of that name."""
    if not recipe.teacher or Path(recipe.teacher).exists():
        return (recipe.teacher,) if recipe.teacher else ()
    return tuple(name.strip() for name in recipe.teacher.split(TEACHER_SEPARATOR))


def check_teachers(recipe: Recipe) -> None:
    """Raise UsageError for a teacher that is missing or named twice."""
    names = list_teachers(recipe)
    for name in names:
        if not name or not Path(name).exists():
            raise UsageError(f"There is no teacher {name!r}: it must be the folder of a saved classifier.")
        if names.count(name) > 1:
            raise UsageError(f"The teacher {name} is named twice; each has the same say in the mean.")


def _check(name: str, value: Any) -> None:
    """Raise UsageError for a number that is not finite, or out of the range of its field."""
    if isinstance(value, str | bool):
        return
    if name == "rate" and not (math.isfinite(value) and value > 0):
        raise UsageError(f"'rate' must be above 0, or 'auto'. Got {value}.")
    if name in ("batch", "epochs") and value < 1:
        raise UsageError(f"{name!r} must be at least 1, or 'auto'. Got {value}.")
    if name in POSITIVE and value < 1:
        raise UsageError(f"{name!r} must be at least 1. Got {value}.")
    if name in FRACTIONS and not 0 <= value < 1:
        raise UsageError(f"{name!r} must be from 0 to below 1. Got {value}.")
    if name in RATE_FACTORS and not 0 < value <= 1:
        raise UsageError(f"{name!r} must be above 0 and at most 1. Got {value}.")
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{name!r} must be 0 or more. Got {value}.")


def check_loss(recipe: Recipe, task: Task) -> None:
    """Raise UsageError for a loss that does not fit the labels."""
    legal = MULTILABEL_LOSSES + SINGLE_LABEL_LOSSES if task == "multiclass" else MULTILABEL_LOSSES
    if recipe.loss not in ("auto", *legal):
        kind = "one class for each image" if task == "multiclass" else "several labels for each image"
        raise UsageError(f"'loss' must be one of auto, {', '.join(sorted(legal))} with {kind}. Got {recipe.loss!r}.")
