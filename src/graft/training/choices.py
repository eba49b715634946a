"""What a person chose for a training, as texts that can be written down and as the values that they stand for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from graft import extras, spec
from graft.data import strengths
from graft.errors import UsageError
from graft.heads.designs import HEADS, Design
from graft.training.heads.names import check, check_installed
from graft.training.recipe import Recipe, check_loss, check_teachers
from graft.training.strategies import STRATEGIES, Direct, EarlyFeatures, Lora, Probe, Scratch, Start, Training
from graft_runtime.card import MULTICLASS, MULTILABEL

# Of graft.backbones.catalog and .fresh, which cost an import of torch; a test compares. What cannot be is told before.
BACKBONE, RANDOM = "tf_efficientnet_lite0", "random"


@dataclass(frozen=True)
class Choices:
    """Strategy, head, recipe, backbone, seed and weights: with the same pictures they make the same classifier.

    `weights` is 'random' where the network begins with weights that the seed draws, else ''. `task` is that of the
    images, known when they are read: of several labels the usual recipe is another one.
    """

    strategy: str = "probe"
    head: str = ""
    recipe: str = ""
    backbone: str = BACKBONE
    seed: int = 0
    weights: str = ""
    task: str = MULTICLASS

    def __post_init__(self) -> None:
        if self.weights not in ("", RANDOM):
            raise UsageError(f"The weights that can be written down are {RANDOM!r} or ''. Got {self.weights!r}.")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"The seed must be from 0 to 2^64 - 1. Got {self.seed}.")

    @classmethod
    def of(cls, written: dict[str, Any], **given: Any) -> Self:
        """Choices that were written down, but for those given now (None: not given)."""
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {name: value for name, value in written.items() if name in known}
        if (name := given.get("strategy")) and name.partition(":")[0] != kept.get("strategy", "").partition(":")[0]:
            kept = {
                name: value for name, value in kept.items() if name not in ("head", "recipe")
            }  # of another strategy
        return cls(**kept | {name: value for name, value in given.items() if value is not None})

    @cached_property
    def plan(self) -> Any:
        """The strategy."""
        return spec.parse(self.strategy, STRATEGIES)

    @cached_property
    def design(self) -> Design | None:
        """The head to train; None if none was named."""
        return spec.parse(self.head, HEADS, "head") if self.head else None

    def check(self) -> None:
        """Raises UsageError for what cannot be, or does not go together: now, and not after minutes of embedding."""
        if self.design and not isinstance(self.plan, Training):
            raise UsageError(f"--head is for strategies that train. {self.strategy!r} takes its own, see its options.")
        if self.weights and isinstance(self.plan, Direct):
            raise UsageError(
                "'direct' answers with the classes that published weights were trained on, and random ones were "
                "trained on none. Leave --weights out, or choose probe, for instance."
            )
        if self.recipe and not self.trains:
            raise UsageError(
                f"A recipe is for training, and {self.strategy!r} trains nothing. Choose tail, for instance."
            )
        if isinstance(self.plan, EarlyFeatures):
            self._check_early(self.plan)
        check_installed(self.solver)
        if self.settings:
            self._check_recipe(self.settings)
            for package in ("torch", *["peft"] * isinstance(self.plan, Lora)):
                extras.needed(package, f"The strategy {self.strategy.partition(':')[0]!r}")

    def _check_early(self, plan: EarlyFeatures) -> None:
        if not self.head and plan.cut != "head":
            raise UsageError("'cut' of early-features is for a head that is trained: add --head linear, for instance.")
        if self.head and plan.solver != "auto":
            raise UsageError("'solver' of early-features is for a head that is solved: leave --head out.")
        if self.head and plan.pca:
            raise UsageError("'pca' of early-features is for a head that is solved: leave --head out.")

    def _check_recipe(self, settings: Recipe) -> None:
        strengths.steps(settings.augment)
        stored = [bool(phase.views) for phase in self.plan.phases(["a stage"] * 8)]
        if all(stored) and "augment=" in self.recipe:
            raise UsageError(
                f"{self.strategy!r} trains on stored views of each picture, a mirror image and crops, where 'augment' "
                f"does nothing. With {self.strategy.partition(':')[0]}:views=0 pictures are augmented in each epoch."
            )
        if any(stored) and settings.cutmix:
            raise UsageError(f"'cutmix' needs pictures, and {self.strategy!r} trains on stored outputs. Use mixup.")
        check_teachers(settings)
        if settings.patience and settings.refit is True:
            raise UsageError("'refit' repeats a whole schedule, and 'patience' ends one early: choose one of them.")

    def check_run(self, saved: bool, resume: bool, log: str) -> None:
        """Raises UsageError where a run is to be gone on with, or its curves kept, and there is or will be none."""
        if resume and not (saved and self.trains):
            raise UsageError(
                "--resume is for strategies that train, with an --output that an interrupted run belongs to."
            )
        if log and not (saved and self.trains):
            raise UsageError(
                "--log is for strategies that train, with an --output beside which the curves are written."
            )

    def check_task(self, task: str) -> None:
        """Raises UsageError for a strategy, head, loss or metric that does not go with the pictures' labels."""
        several = task == MULTILABEL
        if several and isinstance(self.plan, Direct):
            raise UsageError(
                "These pictures have several labels each, and 'direct' answers one class. Every other strategy takes "
                "several: probe, for instance."
            )
        if self.solver:
            check(self.solver, self.plan.layers if isinstance(self.plan, Probe) else "auto", several)
        if self.settings:
            from graft.training import metrics

            check_loss(self.settings, "multilabel" if several else "multiclass")
            metrics.check(self.settings.metric, task)

    def check_count(self, images: int) -> None:
        """Raises UsageError for more principal components than so many images can have."""
        if self.pca and self.pca >= images:
            raise UsageError(
                f"pca={self.pca} needs more than {self.pca:,} training images. There are {images:,} in all."
            )

    @property
    def solver(self) -> str:
        """The name of the head that is solved; empty where none is."""
        if isinstance(self.plan, EarlyFeatures):
            return "" if self.trains else self.plan.solver
        return self.plan.head if isinstance(self.plan, Probe) else ""

    @property
    def pca(self) -> int:
        """How many principal components of the features the head reads; 0: the features as they are."""
        return self.plan.pca if isinstance(self.plan, Probe | EarlyFeatures) else 0

    @property
    def trains(self) -> bool:
        """Whether the loop runs. Early features are solved unless a head to train is named."""
        return isinstance(self.plan, Training) and (not isinstance(self.plan, EarlyFeatures) or bool(self.head))

    @property
    def drawn(self) -> bool:
        """Whether the network begins with random weights, having seen nothing."""
        return self.weights == RANDOM or isinstance(self.plan, Scratch)

    @property
    def start(self) -> Start:
        """Where a training starts; behind a head that was named there is nothing solved to start from."""
        return "fresh" if self.plan.start == "solved" and self.head else self.plan.start

    @cached_property
    def settings(self) -> Recipe | None:
        """The strategy's recipe with what was changed in it; None where nothing is trained.

        With several labels it has no mixup and no smoothing, unless these are asked for: smoothing says of every label
        that an image lacks, and of 20 labels it lacks nearly all, that it has it with 5 % (docs/training.md).
        """
        if not self.trains:
            return None
        usual: Recipe = self.plan.recipe
        if self.task == MULTILABEL:
            usual = dataclasses.replace(usual, mixup=0.0, smoothing=0.0)
        return spec.change(usual, self.recipe, "The recipe")
