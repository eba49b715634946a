"""Choices of a training run: strategy, head, recipe and backbone, as texts and as parsed values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from graft import extras, spec
from graft.data import augmentation
from graft.errors import UsageError
from graft.heads.designs import HEADS, HeadOptions, check_head, check_head_installed
from graft.training.recipe import Recipe, check_loss, check_teachers
from graft.training.strategies import STRATEGIES, Direct, EarlyFeatures, FinetuneStrategy, Lora, Probe, Scratch, Start
from graft_runtime.card import MULTICLASS, MULTILABEL

# As in graft.backbones.catalog, which is not imported here to keep the check of options fast; a test compares them.
DEFAULT_BACKBONE, RANDOM = "tf_efficientnet_lite0", "random"


@dataclass(frozen=True)
class Choices:
    """Strategy, head, recipe, backbone, seed and weights: with the same images they make the same classifier.

    `weights` is 'random' where the network begins with weights that the seed draws, else ''. `task` is that of the
    images, known when they are read: of several labels the usual recipe is another one.
    """

    strategy: str = "probe"
    head: str = ""
    recipe: str = ""
    backbone: str = DEFAULT_BACKBONE
    seed: int = 0
    weights: str = ""
    task: str = MULTICLASS

    def __post_init__(self) -> None:
        if self.weights not in ("", RANDOM):
            raise UsageError(f"The weights that can be written down are {RANDOM!r} or ''. Got {self.weights!r}.")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"The seed must be from 0 to 2^64 - 1. Got {self.seed}.")

    @classmethod
    def from_dict(cls, written: dict[str, Any], **overrides: Any) -> Self:
        """Read stored choices; `overrides` that are not None replace them."""
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {name: value for name, value in written.items() if name in known}
        if (name := overrides.get("strategy")) and name.partition(":")[0] != kept.get("strategy", "").partition(":")[0]:
            kept = {
                name: value for name, value in kept.items() if name not in ("head", "recipe")
            }  # of another strategy
        return cls(**kept | {name: value for name, value in overrides.items() if value is not None})

    @cached_property
    def parsed_strategy(self) -> Any:
        """The strategy as an object."""
        return spec.parse(self.strategy, STRATEGIES)

    @cached_property
    def parsed_head(self) -> HeadOptions | None:
        """The head to train; None if none was named."""
        return spec.parse(self.head, HEADS, "head") if self.head else None

    def check(self) -> None:
        """Raise UsageError for choices that are invalid or do not go together, before minutes of embedding."""
        if self.parsed_head and not isinstance(self.parsed_strategy, FinetuneStrategy):
            raise UsageError(f"--head is for strategies that train. {self.strategy!r} takes its own, see its options.")
        if self.weights and isinstance(self.parsed_strategy, Direct):
            raise UsageError(
                "'direct' answers with the classes that published weights were trained on, and random ones were "
                "trained on none. Leave --weights out, or choose probe, for instance."
            )
        if self.recipe and not self.is_finetuning:
            raise UsageError(
                f"A recipe is for training, and {self.strategy!r} trains nothing. Choose tail, for instance."
            )
        if isinstance(self.parsed_strategy, EarlyFeatures):
            self._check_early(self.parsed_strategy)
        check_head_installed(self.solver)
        if self.parsed_recipe:
            self._check_recipe(self.parsed_recipe)
            for package in ("torch", *["peft"] * isinstance(self.parsed_strategy, Lora)):
                extras.require_package(package, f"The strategy {self.strategy.partition(':')[0]!r}")

    def _check_early(self, plan: EarlyFeatures) -> None:
        if not self.head and plan.cut != "head":
            raise UsageError("'cut' of early-features is for a head that is trained: add --head linear, for instance.")
        if self.head and plan.solver != "auto":
            raise UsageError("'solver' of early-features is for a head that is solved: leave --head out.")
        if self.head and plan.pca:
            raise UsageError("'pca' of early-features is for a head that is solved: leave --head out.")

    def _check_recipe(self, settings: Recipe) -> None:
        augmentation.parse_augmentation(settings.augment)
        stored = [bool(phase.views) for phase in self.parsed_strategy.phases(["a stage"] * 8)]
        if all(stored) and "augment=" in self.recipe:
            raise UsageError(
                f"{self.strategy!r} trains on stored views of each image, a mirror image and crops, where 'augment' "
                f"does nothing. With {self.strategy.partition(':')[0]}:views=0 images are augmented in each epoch."
            )
        if any(stored) and settings.cutmix:
            raise UsageError(f"'cutmix' needs images, and {self.strategy!r} trains on stored outputs. Use mixup.")
        check_teachers(settings)
        if settings.patience and settings.refit is True:
            raise UsageError("'refit' repeats a whole schedule, and 'patience' ends one early: choose one of them.")

    def check_run(self, saved: bool, resume: bool, log: str) -> None:
        """Raise UsageError where `resume` or `log` is set for a run that keeps no checkpoints."""
        if resume and not (saved and self.is_finetuning):
            raise UsageError(
                "--resume is for strategies that train, with an --output that an interrupted run belongs to."
            )
        if log and not (saved and self.is_finetuning):
            raise UsageError(
                "--log is for strategies that train, with an --output beside which the curves are written."
            )

    def check_task(self, task: str) -> None:
        """Raise UsageError for a strategy, head, loss or metric that does not fit the labels."""
        multilabel = task == MULTILABEL
        if multilabel and isinstance(self.parsed_strategy, Direct):
            raise UsageError(
                "These images have several labels each, and 'direct' answers one class. Every other strategy takes "
                "several: probe, for instance."
            )
        if self.solver:
            check_head(
                self.solver,
                self.parsed_strategy.layers if isinstance(self.parsed_strategy, Probe) else "auto",
                multilabel,
            )
        if self.parsed_recipe:
            from graft.metrics import ranking

            check_loss(self.parsed_recipe, "multilabel" if multilabel else "multiclass")
            ranking.check_metric(self.parsed_recipe.metric, task)

    def check_image_count(self, images: int) -> None:
        """Raise UsageError for at least as many principal components as images."""
        if self.pca and self.pca >= images:
            raise UsageError(
                f"pca={self.pca} needs more than {self.pca:,} training images. There are {images:,} in all."
            )

    @property
    def solver(self) -> str:
        """The name of the closed-form head; empty where a head is trained."""
        if isinstance(self.parsed_strategy, EarlyFeatures):
            return "" if self.is_finetuning else self.parsed_strategy.solver
        return self.parsed_strategy.head if isinstance(self.parsed_strategy, Probe) else ""

    @property
    def pca(self) -> int:
        """How many principal components of the features the head reads; 0: the features as they are."""
        return self.parsed_strategy.pca if isinstance(self.parsed_strategy, Probe | EarlyFeatures) else 0

    @property
    def is_finetuning(self) -> bool:
        """Whether the loop runs. Early features are solved unless a head to train is named."""
        return isinstance(self.parsed_strategy, FinetuneStrategy) and (
            not isinstance(self.parsed_strategy, EarlyFeatures) or bool(self.head)
        )

    @property
    def has_random_weights(self) -> bool:
        """Whether the network begins with random weights."""
        return self.weights == RANDOM or isinstance(self.parsed_strategy, Scratch)

    @property
    def start(self) -> Start:
        """Where a training starts; behind a head that was named there is nothing solved to start from."""
        return "fresh" if self.parsed_strategy.start == "solved" and self.head else self.parsed_strategy.start

    @cached_property
    def parsed_recipe(self) -> Recipe | None:
        """The strategy's recipe with what was changed in it; None where nothing is trained.

        With several labels it has no mixup and no smoothing unless these are given: smoothing moves the target of every
        absent label, nearly all of 20, from 0 to 5 % (docs/training.md).
        """
        if not self.is_finetuning:
            return None
        usual: Recipe = self.parsed_strategy.recipe
        if self.task == MULTILABEL:
            usual = dataclasses.replace(usual, mixup=0.0, smoothing=0.0)
        return spec.replace_options(usual, self.recipe, "The recipe")
