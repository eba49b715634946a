"""The plan of a training run: strategy, head, recipe and backbone, as texts and as parsed values."""

from __future__ import annotations

import dataclasses
import operator
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from graft import extras, spec
from graft.data import augmentation
from graft.errors import ModelError, UsageError
from graft.heads.designs import HEADS, HeadOptions, check_head, check_head_installed
from graft.training.recipe import Recipe, check_loss, check_teachers
from graft.training.strategies import STRATEGIES, Direct, EarlyFeatures, FinetuneStrategy, Lora, Probe, Scratch, Start
from graft_runtime import card, safe_files
from graft_runtime.card import MULTICLASS, MULTILABEL, CardError

# As in graft.backbones.catalog, which is not imported here to keep the check of options fast; a test compares them.
DEFAULT_BACKBONE, RANDOM = "tf_efficientnet_lite0", "random"
MAX_CARD_BYTES = 1 << 28
TEXTS = ("strategy", "head", "recipe", "backbone", "weights", "task")
NAME_A_MODEL = "Name the folder that `graft fit --output` wrote, or its model.json."


class PlanChanges(TypedDict, total=False):
    """Fields of a plan to change; None changes nothing."""

    strategy: str | None
    head: str | None
    recipe: str | None
    backbone: str | None
    seed: int | None


@dataclass(frozen=True)
class Plan:
    """Strategy, head, recipe, backbone, seed and weights: with the same images they make the same classifier.

    All are texts, the seed a number; '' is the strategy's own head and recipe. `weights` is 'random' where the network
    begins with weights that the seed draws, else ''. `task` is that of the images, known when they are read: of several
    labels the usual recipe is another one. `str(plan)` is one line, which `Plan.parse` reads.

    Raises UsageError for weights that cannot be written down, and for a seed of more than 64 bits.

    >>> plan = Plan("tail:cut=0.5", backbone="resnet18", seed=1)
    >>> str(plan)
    'tail:cut=0.5 backbone=resnet18 seed=1'
    >>> Plan.parse(str(plan)) == plan
    True
    """

    strategy: str = "probe"
    head: str = ""
    recipe: str = ""
    backbone: str = DEFAULT_BACKBONE
    seed: int = 0
    weights: str = ""
    task: str = MULTICLASS

    def __post_init__(self) -> None:
        for name in TEXTS:
            if not isinstance(text := getattr(self, name), str):
                raise UsageError(f"{name!r} of a plan is a text. Got {text!r}.")
            object.__setattr__(self, name, re.sub(r"(?<=[:,=]) +| +(?=[:,=])", "", text.strip()))
        if self.weights not in ("", RANDOM):
            raise UsageError(
                f"'weights' of a plan are {RANDOM!r}, or '' for pretrained ones; a file is given to fit itself. "
                f"Got {self.weights!r}."
            )
        if self.task not in (MULTICLASS, MULTILABEL):
            raise UsageError(f"'task' of a plan is {MULTICLASS!r} or {MULTILABEL!r}. Got {self.task!r}.")
        object.__setattr__(self, "seed", _check_seed(self.seed))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the line that `str(plan)` is: a strategy, then what differs from the default, as in 'tail seed=1'.

        Raises UsageError for an unknown, repeated or misplaced part.
        """
        first, *others = text.split() or [cls.strategy]
        if first.partition("=")[0] in {field.name for field in dataclasses.fields(cls)}:
            first, others = cls.strategy, [first, *others]
        elif any(each.startswith("strategy=") for each in others):
            raise UsageError(f"A plan is given two strategies, {first!r} and another one. Leave one of them out.")
        return spec.replace_options(cls(first), " ".join(others), "A plan", " ")

    def __str__(self) -> str:
        changed = spec.format_changed_options(replace(self, strategy=type(self).strategy), " ")
        return f"{self.strategy} {changed}".strip()

    @classmethod
    def from_dict(cls, written: dict[str, Any]) -> Self:
        """Read what a classifier's card says; what only other versions know is left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in written.items() if name in known})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the plan of a classifier, from its folder or its model.json. Raises ModelError.

        >>> graft.fit("photos/", plan=graft.Plan.read("model/"))  # doctest: +SKIP
        """
        path = Path(path)
        try:
            raw = safe_files.read_limited(path / "model.json" if path.is_dir() else path, MAX_CARD_BYTES)
            return cls.from_dict(card.parse(raw.decode()).choices)
        except OSError as error:
            raise ModelError(f"{path} is no saved classifier: {error.strerror or error}. {NAME_A_MODEL}") from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} is no model.json. {NAME_A_MODEL}") from error
        except (CardError, UsageError) as error:
            raise ModelError(f"{path} says of no plan that can be used: {error}") from error

    def change(self, *, weights: str | None = None, **changes: Unpack[PlanChanges]) -> Self:
        """Return the plan with these fields; None changes nothing. Another strategy brings its own head and recipe."""
        if odd := sorted(changes.keys() - PlanChanges.__annotations__.keys()):
            hint = spec.format_suggestions(odd[0], PlanChanges.__annotations__)
            raise UsageError(
                f"There is no option {odd[0]!r}.{hint} A plan has {', '.join(PlanChanges.__annotations__)}."
            )
        given = {name: value for name, value in {**changes, "weights": weights}.items() if value is not None}
        name = str(given.get("strategy", self.strategy)).partition(":")[0]
        own = {"head": "", "recipe": ""} if name != self.strategy.partition(":")[0] else {}
        return replace(self, **(own | given))

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

    def _check_early(self, strategy: EarlyFeatures) -> None:
        if not self.head and strategy.cut != "head":
            raise UsageError("'cut' of early-features is for a head that is trained: add --head linear, for instance.")
        if self.head and strategy.solver != "auto":
            raise UsageError("'solver' of early-features is for a head that is solved: leave --head out.")
        if self.head and strategy.pca:
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

    @property
    def may_keep_probe(self) -> bool:
        """Whether a solved head is the result where training from a new head does no better.

        Not where a head or early features were asked for, or no choice (`blend=none`).
        """
        recipe, asked = self.parsed_recipe, bool(self.head) or isinstance(self.parsed_strategy, EarlyFeatures)
        return bool(recipe) and recipe.blend == "auto" and self.start == "fresh" and not asked

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
            usual = replace(usual, mixup=0.0, smoothing=0.0)
        return spec.replace_options(usual, self.recipe, "The recipe")


def _check_seed(seed: Any) -> int:
    """Return the seed as an int. Raises UsageError for anything but a whole number of 64 bits."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise UsageError(f"The seed must be a whole number from 0 to 2^64 - 1. Got {seed!r}.")
    return number


def as_plan(plan: Any) -> Plan:
    """Return a plan as it is, and parse a text. Raises UsageError for anything else, and for a saved classifier."""
    if isinstance(plan, str) and (Path(plan).exists() or plan.endswith((".json", "/"))):
        raise UsageError(
            f"{plan!r} is a path, not a plan. The plan of a saved classifier is graft.Plan.read({plan!r})."
        )
    if not isinstance(plan, Plan | str):
        raise UsageError(f"A plan is a graft.Plan or its text, such as 'tail:cut=0.5 seed=1'. Got {plan!r}.")
    return Plan.parse(plan) if isinstance(plan, str) else plan
