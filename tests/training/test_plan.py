"""Plan: texts that can be written down and read again, and what does not go together is told at once."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft import extras, spec
from graft.backbones import catalog
from graft.errors import UsageError
from graft.heads import choose, classical, designs
from graft.heads.designs import Conv, Linear, Mlp
from graft.training.plan import Plan, PlanChanges, as_plan
from graft.training.recipe import CHOICES, Recipe
from graft.training.strategies import STRATEGIES, Tail

SOLVED = ("direct", "probe", "early-features")  # nothing of theirs goes through the loop
TRAINED = [name for name in STRATEGIES if name not in SOLVED]


# --- written down -----------------------------------------------------------------------------------------------------


GIVEN = Plan("tail:cut=0.5", "mlp", "epochs=3", "resnet18", 7)


def test_a_plan_is_written_down_and_read_again() -> None:
    assert Plan.from_dict(asdict(GIVEN) | {"of another version": 1}) == GIVEN
    assert Plan.from_dict({}) == Plan()
    assert Plan().backbone == catalog.DEFAULT


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan(), "probe"),
        (GIVEN, "tail:cut=0.5 head=mlp recipe=epochs=3 backbone=resnet18 seed=7"),
        (
            Plan("full", "mlp:hidden=64+32", "epochs=5,rate=0.001"),
            "full head=mlp:hidden=64+32 recipe=epochs=5,rate=0.001",
        ),
        (Plan("early-features:at=layer2", weights="random"), "early-features:at=layer2 weights=random"),
    ],
)
def test_a_plan_is_one_line(plan: Plan, text: str) -> None:
    assert str(plan) == text
    assert Plan.parse(text) == Plan.parse(f"  {text.replace(' ', '   ')} ") == plan


def test_a_plan_without_a_strategy_is_a_probe() -> None:
    assert Plan.parse("seed=3 backbone=resnet18") == Plan(seed=3, backbone="resnet18")
    assert Plan.parse("") == Plan()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tail sed=3", "A plan has no option 'sed'. Did you mean 'seed'?"),
        ("tail seed=three", "'seed' must be a whole number. Got 'three'."),
        ("tail seed=1 seed=2", "A plan is given 'seed' twice."),
        ("tail full", "A plan has no option 'full'."),
        ("tail strategy=full", "A plan is given two strategies"),
        ("tail task=both", "'task' of a plan is"),
        ("tail weights=mine.pth", "'weights' of a plan are 'random', or '' for pretrained ones"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        Plan.parse(text)


def test_changes_count_before_what_was_written_down() -> None:
    again = GIVEN.change(strategy="tail:cut=0.9", head="", recipe=None, backbone=None, seed=0)
    assert again == Plan("tail:cut=0.9", "", "epochs=3", "resnet18", 0)
    assert Plan().change(**dict.fromkeys(PlanChanges.__annotations__)) == Plan()
    assert set(PlanChanges.__annotations__) == {field.name for field in fields(Plan)} - {"weights", "task"}


def test_head_and_recipe_belong_to_their_strategy() -> None:
    assert GIVEN.change(strategy="full") == Plan("full", "", "", "resnet18", 7)
    assert GIVEN.change(strategy="full", recipe="epochs=1") == Plan("full", "", "epochs=1", "resnet18", 7)
    GIVEN.change(strategy="probe").check()


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.0, "1", None])
def test_a_seed_is_a_whole_number_of_64_bits(seed: Any) -> None:
    with pytest.raises(UsageError, match=rf"The seed must be a whole number from 0 to 2\^64 - 1\. Got {seed!r}\."):
        unchecked(seed=seed)
    assert Plan(seed=2**64 - 1).seed == 2**64 - 1
    assert type(unchecked(seed=np.int64(3)).seed) is int


def unchecked(**fields: Any) -> Plan:
    """A plan as a user makes it, whose types nobody checks before."""
    return inspect.unwrap(Plan.__init__)(plan := Plan.__new__(Plan), **fields) or plan


def test_spaces_beside_marks_are_none_of_the_text() -> None:
    plan = Plan("probe: head=ridge, layers=all", recipe="epochs=5 , rate=0.01")
    assert (plan.strategy, plan.recipe) == ("probe:head=ridge,layers=all", "epochs=5,rate=0.01")
    assert Plan.parse(str(plan)) == plan


def test_what_no_plan_has_is_told_with_what_it_has() -> None:
    with pytest.raises(UsageError, match=r"no option 'sead'\. Did you mean 'seed' .* A plan has strategy, head"):
        Plan().change(**{"sead": 1})  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("wrong", [None, {"strategy": "tail"}, "model/", "card.json"])
def test_what_is_no_plan_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is a path, not a plan" if isinstance(wrong, str) else "or its text"):
        as_plan(wrong)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_name_is_a_plan_and_trains_or_does_not(name: str) -> None:
    plan = Plan(name)
    assert plan.parsed_strategy == STRATEGIES[name]()
    assert plan.is_finetuning == (name in TRAINED)
    assert (plan.parsed_recipe is None) == (name in SOLVED)
    plan.check()


def test_a_recipe_changes_that_of_the_strategy_and_nothing_else() -> None:
    assert Plan("tail").parsed_recipe == Tail.recipe
    changed = Plan("tail", recipe="epochs=3,rate=auto,refit=yes").parsed_recipe
    assert changed == replace(Tail.recipe, epochs=3, rate="auto", refit=True)
    assert (
        Plan("early-features:at=1", "linear", spec.format_changed_options(changed)).parsed_recipe == changed
    )  # all that differs from a plain Recipe()


@pytest.mark.parametrize(
    ("plan", "may"),
    [
        (Plan("full"), True),
        (Plan("two-phase"), True),
        (Plan("gradual"), True),
        (Plan("tail"), False),  # it begins with the solved head, and may end with it anyway
        (Plan("full", "mlp"), False),
        (Plan("full", recipe="blend=none"), False),
        (Plan("full", weights="random"), True),  # as with these weights in a file
        (Plan("scratch"), False),
        (Plan("early-features:at=1", "mlp"), False),
        (Plan("probe"), False),
    ],
)
def test_a_solved_head_may_take_the_place_of_a_new_one_unless_that_was_asked_for(plan: Plan, may: bool) -> None:
    assert plan.may_keep_probe is may


@pytest.mark.parametrize("strategy", ["tail", "lp-ft", "lora", "norm"])
def test_of_several_labels_nothing_is_mixed_or_smoothed_unless_asked_for(strategy: str) -> None:
    one, several = Plan(strategy).parsed_recipe, Plan(strategy, task="multilabel").parsed_recipe
    assert one
    assert (one.mixup, one.smoothing) == (0.4, 0.1)
    assert several == replace(one, mixup=0.0, smoothing=0.0)
    given = Plan(strategy, recipe="mixup=0.2,smoothing=0.1", task="multilabel").parsed_recipe
    assert given == replace(one, mixup=0.2, smoothing=0.1)


def test_a_head_to_train_makes_early_features_a_training() -> None:
    assert not Plan("early-features:at=2").is_finetuning
    assert Plan("early-features:at=2", "mlp").is_finetuning
    assert Plan("early-features:at=2", "mlp", "epochs=3").parsed_recipe == Recipe(epochs=3, rate=1e-3)


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
    assert Plan("tail", text).parsed_head == design


# --- what does not go together ----------------------------------------------------------------------------------------

WRONG = [
    (Plan("probe", "mlp"), "--head is for strategies that train. 'probe' takes its own"),
    (Plan("direct", "linear"), "--head is for strategies that train. 'direct' takes its own"),
    (Plan("probe", recipe="epochs=3"), "A recipe is for training, and 'probe' trains nothing"),
    (Plan("direct", recipe="epochs=3"), "A recipe is for training, and 'direct' trains nothing"),
    (Plan("early-features", recipe="epochs=3"), "A recipe is for training, and 'early-features' trains nothing"),
    (Plan("tail", recipe="rate=0"), "'rate' must be above 0, or 'auto'. Got 0.0."),
    (Plan("tail", recipe="loss=kl"), "'loss=kl' and 'teacher' belong together"),
    (Plan("tail", recipe="teacher=model"), "'loss=kl' and 'teacher' belong together"),
    (Plan("tail", recipe="augment=magic"), "There is no augmentation 'magic'"),
    (Plan("tail", recipe="augment=strong"), "'tail' trains on stored views of each image"),
    (Plan("tail:cut=0.5", recipe="cutmix=1"), "'cutmix' needs images, and 'tail:cut=0.5' trains on stored"),
    (Plan("two-phase", recipe="cutmix=1"), "'cutmix' needs images, and 'two-phase' trains on stored"),
    (Plan("full", recipe="loss=kl,teacher=nowhere"), "There is no teacher 'nowhere': it must be the folder"),
    (Plan("full", recipe="loss=kl,teacher=src+nowhere"), "There is no teacher 'nowhere': it must be the folder"),
    (Plan("full", recipe="loss=kl,teacher=src+"), "There is no teacher '': it must be the folder"),
    (Plan("full", recipe="loss=kl,teacher=src+src"), "The teacher src is named twice"),
    (Plan("early-features:cut=layer1"), "'cut' of early-features is for a head that is trained"),
    (Plan("early-features:solver=ridge", "mlp"), "'solver' of early-features is for a head that is solved"),
    (Plan("tail", recipe="epoch=3"), "The recipe has no option 'epoch'"),
    (Plan("tail", "cnn"), "There is no head 'cnn'. Choose one of: linear, mlp, conv."),
    (Plan("tail", "mlp:hidden=wide"), "'hidden'"),
    (Plan("tails"), "There is no strategy 'tails'"),
]


@pytest.mark.parametrize(("plan", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_cannot_be_is_told_before_any_work(plan: Plan, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        _checked(plan)
    assert says in str(caught.value)


def _checked(plan: Plan) -> None:
    plan.check()
    plan.check_task("multiclass")


@pytest.mark.parametrize("strategy", TRAINED)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_every_strategy_that_trains_takes_one_label_and_several(strategy: str, task: str) -> None:
    plan = Plan(strategy)
    plan.check()
    plan.check_task(task)


@pytest.mark.parametrize(
    "plan",
    [
        Plan("tail:views=0", recipe="augment=strong,cutmix=1"),
        Plan("two-phase", recipe="augment=strong"),  # in its second phase
        Plan("full", recipe="augment=strong,cutmix=1"),
        Plan("full", recipe="patience=2"),
        Plan("full", recipe="refit=yes"),
        Plan("early-features:cut=layer1", "mlp"),
        Plan("early-features:solver=ridge"),
    ],
)
def test_what_does_go_together_is_taken(plan: Plan) -> None:
    _checked(plan)


def test_losses_and_metrics_belong_to_a_task(tmp_path: Path) -> None:
    taken: dict[str, list[str]] = {"loss": [], "metric": []}
    for name, values in taken.items():
        for value in CHOICES[name]:
            teacher = f",teacher={tmp_path}" if value == "kl" else ""
            plan = Plan("full", recipe=f"{name}={value}{teacher}")
            plan.check()
            plan.check_task("multiclass")
            try:
                plan.check_task("multilabel")
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
    plan = Plan(strategy)
    plan.check_task("multiclass")
    with pytest.raises(UsageError, match=says):
        plan.check_task("multilabel")


def test_plans_are_plain_values() -> None:
    assert {type(value) for value in asdict(Plan()).values()} == {str, int}
    assert [field.name for field in fields(Plan)] == [
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
    Plan(strategy).check()
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    says = r"The head 'svm' needs scikit-learn, which is not installed: pip install 'graft-vision\[train\]'"
    with pytest.raises(UsageError, match=says):
        Plan(strategy).check()
    with pytest.raises(UsageError, match=says):
        choose.choose_head("svm", "last", {})
    Plan("probe:head=ridge").check()
    assert sorted(designs.SKLEARN_HEADS) == sorted(classical.CLASSICAL_NAMES)
