"""Choices: texts that can be written down and read again, and what does not go together is told at once."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from graft import extras, spec
from graft.backbones import catalog
from graft.errors import UsageError
from graft.heads import choose, classical, designs
from graft.heads.designs import Conv, Linear, Mlp
from graft.training.choices import Choices
from graft.training.recipe import CHOICES, Recipe
from graft.training.strategies import STRATEGIES, Tail

SOLVED = ("direct", "probe", "early-features")  # nothing of theirs goes through the loop
TRAINED = [name for name in STRATEGIES if name not in SOLVED]


# --- written down -----------------------------------------------------------------------------------------------------


def test_what_is_given_now_counts_before_what_was_written_down() -> None:
    written = asdict(Choices("tail:cut=0.5", "mlp", "epochs=3", "resnet18", 7)) | {"of another version": 1}
    assert Choices.from_dict(written) == Choices("tail:cut=0.5", "mlp", "epochs=3", "resnet18", 7)
    again = Choices.from_dict(written, strategy="tail:cut=0.9", head="", recipe=None, backbone=None, seed=0)
    assert again == Choices("tail:cut=0.9", "", "epochs=3", "resnet18", 0)
    assert Choices.from_dict({}) == Choices.from_dict({}, **dict.fromkeys(asdict(Choices()))) == Choices()
    assert Choices().backbone == catalog.DEFAULT


def test_head_and_recipe_belong_to_their_strategy() -> None:
    written = asdict(Choices("tail:cut=0.5", "mlp", "epochs=3", "resnet18", 7))
    assert Choices.from_dict(written, strategy="full") == Choices("full", "", "", "resnet18", 7)
    assert Choices.from_dict(written, strategy="full", recipe="epochs=1") == Choices(
        "full", "", "epochs=1", "resnet18", 7
    )
    Choices.from_dict(written, strategy="probe").check()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(UsageError, match=rf"The seed must be from 0 to 2\^64 - 1\. Got {seed}\."):
        Choices(seed=seed)
    assert Choices(seed=2**64 - 1).seed == 2**64 - 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_name_is_a_plan_and_trains_or_does_not(name: str) -> None:
    choices = Choices(name)
    assert choices.parsed_strategy == STRATEGIES[name]()
    assert choices.is_finetuning == (name in TRAINED)
    assert (choices.parsed_recipe is None) == (name in SOLVED)
    choices.check()


def test_a_recipe_changes_that_of_the_strategy_and_nothing_else() -> None:
    assert Choices("tail").parsed_recipe == Tail.recipe
    changed = Choices("tail", recipe="epochs=3,rate=auto,refit=yes").parsed_recipe
    assert changed == replace(Tail.recipe, epochs=3, rate="auto", refit=True)
    assert (
        Choices("full", recipe=spec.format_changed_options(changed)).parsed_recipe == changed
    )  # all that differs from a plain Recipe()


@pytest.mark.parametrize("strategy", ["tail", "lp-ft", "lora", "norm"])
def test_of_several_labels_nothing_is_mixed_or_smoothed_unless_asked_for(strategy: str) -> None:
    one, several = Choices(strategy).parsed_recipe, Choices(strategy, task="multilabel").parsed_recipe
    assert one
    assert (one.mixup, one.smoothing) == (0.4, 0.1)
    assert several == replace(one, mixup=0.0, smoothing=0.0)
    given = Choices(strategy, recipe="mixup=0.2,smoothing=0.1", task="multilabel").parsed_recipe
    assert given == replace(one, mixup=0.2, smoothing=0.1)


def test_a_head_to_train_makes_early_features_a_training() -> None:
    assert not Choices("early-features:at=2").is_finetuning
    assert Choices("early-features:at=2", "mlp").is_finetuning
    assert Choices("early-features:at=2", "mlp", "epochs=3").parsed_recipe == Recipe(epochs=3, rate=1e-3)


@pytest.mark.parametrize(
    ("text", "design"),
    [
        ("linear", Linear()),
        ("mlp:hidden=64+32,dropout=0.5", Mlp("64+32", dropout=0.5)),
        ("conv:filters=8", Conv(8)),
        ("", None),
    ],
)
def test_a_head_is_a_design(text: str, design: Any) -> None:
    assert Choices("tail", text).parsed_head == design


# --- what does not go together ----------------------------------------------------------------------------------------

WRONG = [
    (Choices("probe", "mlp"), "--head is for strategies that train. 'probe' takes its own"),
    (Choices("direct", "linear"), "--head is for strategies that train. 'direct' takes its own"),
    (Choices("probe", recipe="epochs=3"), "A recipe is for training, and 'probe' trains nothing"),
    (Choices("direct", recipe="epochs=3"), "A recipe is for training, and 'direct' trains nothing"),
    (Choices("early-features", recipe="epochs=3"), "A recipe is for training, and 'early-features' trains nothing"),
    (Choices("tail", recipe="rate=0"), "'rate' must be above 0, or 'auto'. Got 0.0."),
    (Choices("tail", recipe="loss=kl"), "'loss=kl' and 'teacher' belong together"),
    (Choices("tail", recipe="teacher=model"), "'loss=kl' and 'teacher' belong together"),
    (Choices("tail", recipe="augment=magic"), "There is no augmentation 'magic'"),
    (Choices("tail", recipe="augment=strong"), "'tail' trains on stored views of each image"),
    (Choices("tail:cut=0.5", recipe="cutmix=1"), "'cutmix' needs images, and 'tail:cut=0.5' trains on stored"),
    (Choices("two-phase", recipe="cutmix=1"), "'cutmix' needs images, and 'two-phase' trains on stored"),
    (Choices("full", recipe="loss=kl,teacher=nowhere"), "There is no teacher 'nowhere': it must be the folder"),
    (Choices("full", recipe="loss=kl,teacher=src+nowhere"), "There is no teacher 'nowhere': it must be the folder"),
    (Choices("full", recipe="loss=kl,teacher=src+"), "There is no teacher '': it must be the folder"),
    (Choices("full", recipe="loss=kl,teacher=src+src"), "The teacher src is named twice"),
    (Choices("full", recipe="patience=2,refit=yes"), "choose one of them"),
    (Choices("early-features:cut=layer1"), "'cut' of early-features is for a head that is trained"),
    (Choices("early-features:solver=ridge", "mlp"), "'solver' of early-features is for a head that is solved"),
    (Choices("tail", recipe="epoch=3"), "The recipe has no option 'epoch'"),
    (Choices("tail", "cnn"), "There is no head 'cnn'. Choose one of: linear, mlp, conv."),
    (Choices("tail", "mlp:hidden=wide"), "'hidden'"),
    (Choices("tails"), "There is no strategy 'tails'"),
]


@pytest.mark.parametrize(("choices", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_cannot_be_is_told_before_any_work(choices: Choices, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        _checked(choices)
    assert says in str(caught.value)


def _checked(choices: Choices) -> None:
    choices.check()
    choices.check_task("multiclass")


@pytest.mark.parametrize("strategy", TRAINED)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_every_strategy_that_trains_takes_one_label_and_several(strategy: str, task: str) -> None:
    choices = Choices(strategy)
    choices.check()
    choices.check_task(task)


@pytest.mark.parametrize(
    "choices",
    [
        Choices("tail:views=0", recipe="augment=strong,cutmix=1"),
        Choices("two-phase", recipe="augment=strong"),  # in its second phase
        Choices("full", recipe="augment=strong,cutmix=1"),
        Choices("full", recipe="patience=2"),
        Choices("full", recipe="refit=yes"),
        Choices("early-features:cut=layer1", "mlp"),
        Choices("early-features:solver=ridge"),
    ],
)
def test_what_does_go_together_is_taken(choices: Choices) -> None:
    _checked(choices)


def test_losses_and_metrics_belong_to_a_task(tmp_path: Path) -> None:
    taken: dict[str, list[str]] = {"loss": [], "metric": []}
    for name, values in taken.items():
        for value in CHOICES[name]:
            teacher = f",teacher={tmp_path}" if value == "kl" else ""
            choices = Choices("full", recipe=f"{name}={value}{teacher}")
            choices.check()
            choices.check_task("multiclass")
            try:
                choices.check_task("multilabel")
            except UsageError as error:
                assert value in str(error)  # noqa: PT017  (which values are refused is what is asked)
            else:
                values.append(value)
    assert taken["loss"] == ["auto", "focal", "mse", "bce", "asymmetric"]
    assert taken["metric"] == [each for each in CHOICES["metric"] if each != "balanced-accuracy"]


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("direct", "'direct' answers one class. Every other strategy takes several"),
        ("probe:head=knn", "knn.* takes one label for each image"),
        ("early-features:solver=knn", "knn.* takes one label for each image"),
    ],
)
def test_what_answers_one_class_is_refused_for_several_labels(strategy: str, says: str) -> None:
    choices = Choices(strategy)
    choices.check_task("multiclass")
    with pytest.raises(UsageError, match=says):
        choices.check_task("multilabel")


def test_choices_are_plain_values() -> None:
    assert {type(value) for value in asdict(Choices()).values()} == {str, int}
    assert [field.name for field in fields(Choices)] == [
        "strategy",
        "head",
        "recipe",
        "backbone",
        "seed",
        "weights",
        "task",
    ]


@pytest.mark.parametrize("strategy", ["probe:head=svm", "early-features:at=0.5,solver=svm"])
def test_a_head_of_scikit_learn_needs_it_before_any_work(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Choices(strategy).check()
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    says = r"The head 'svm' needs scikit-learn, which is not installed: pip install 'graft-vision\[train\]'"
    with pytest.raises(UsageError, match=says):
        Choices(strategy).check()
    with pytest.raises(UsageError, match=says):
        choose.choose_head("svm", "last", {})
    Choices("probe:head=ridge").check()
    assert sorted(designs.SKLEARN_HEADS) == sorted(classical.CLASSICAL_NAMES)
