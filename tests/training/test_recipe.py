"""The recipe: each field refuses what it cannot be and says its name, and one line of text says all of it."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft import spec
from graft.errors import UsageError
from graft.training.recipe import (
    CHOICES,
    LARGE_BATCH,
    LARGE_SET,
    MAX_AUTO_BATCH,
    MIN_AUTO_STEPS,
    MIN_EPOCHS,
    MIN_UPDATES,
    Recipe,
)

OF_ANY_SIZE = ["weight_decay", "l1", "l2_sp", "clip", "mixup", "cutmix"]
SHARES = ["warmup", "smoothing", "ema"]
ILLEGAL: dict[str, list[Any]] = {
    "epochs": [0, -1],
    "batch": [0, -8],
    "rate": [0.0, -1e-3, math.inf, math.nan],
    "layer_decay": [0.0, -0.5, 1.01, math.nan],
    "backbone_rate": [0.0, -0.1, 1.01, math.nan],
    "accumulate": [0, -1],
    "patience": [-1],
    **{name: [-1e-9, math.inf, math.nan] for name in OF_ANY_SIZE},
    **{name: [-0.1, 1.0, math.nan] for name in SHARES},
    **{name: ["", "nosuch"] for name in CHOICES},
}
TEXTS = {  # what is illegal as a text already: of another kind than the field
    "epochs": ("1.5", "a whole number or auto"),
    "batch": ("many", "a whole number or auto"),
    "rate": ("fast", "a number or auto"),
    "patience": ("2.5", "a whole number"),
    "smoothing": ("auto", "a number"),
    "refit": ("maybe", "yes or no or auto"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ILLEGAL.items() for value in values])
def test_each_field_refuses_what_it_cannot_be_and_says_its_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^'{name}' must be .* Got {value!r}\.$"):
        Recipe(**{name: value})


def test_no_field_takes_everything() -> None:
    """What is missing above: a yes or no, and two texts that are checked where they are used."""
    assert {field.name for field in fields(Recipe)} - ILLEGAL.keys() == {"refit", "augment", "teacher"}


@pytest.mark.parametrize(("name", "text", "legal"), [(name, *rest) for name, rest in TEXTS.items()])
def test_a_text_of_another_kind_is_refused(name: str, text: str, legal: str) -> None:
    with pytest.raises(UsageError, match=rf"^'{name}' must be {legal}\. Got '{text}'\.$"):
        spec.replace_options(Recipe(), f"{name}={text}", "The recipe")


def test_an_unknown_field_is_answered_with_all_fields() -> None:
    with pytest.raises(
        UsageError,
        match=r"The recipe has no option 'epoch'\. Did you mean 'epochs'\? It has epochs, batch, .*, refit\.",
    ):
        spec.replace_options(Recipe(), "epoch=3", "The recipe")


@pytest.mark.parametrize("change", [{"loss": "kl"}, {"teacher": "model"}, {"loss": "focal", "teacher": "model"}])
def test_a_teacher_and_its_loss_belong_together(change: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="belong together"):
        Recipe(**change)  # pyright: ignore[reportArgumentType]
    assert Recipe(loss="kl", teacher="model").teacher == "model"


SIZES = st.floats(0, 1e6)
BELOW_ONE = st.floats(0, 1, exclude_max=True)
RECIPES = st.builds(
    Recipe,
    epochs=st.integers(1, 10**6),
    batch=st.just("auto") | st.integers(1, 10**6),
    rate=st.just("auto") | st.floats(0, 1e3, exclude_min=True),
    layer_decay=st.floats(0, 1, exclude_min=True),
    accumulate=st.integers(1, 100),
    patience=st.integers(0, 100),
    augment=st.sampled_from(["none", "crop=0.5+flip", "light+rotate=10"]),
    refit=st.sampled_from([True, False, "auto"]),
    **dict.fromkeys(OF_ANY_SIZE, SIZES),
    **dict.fromkeys(SHARES, BELOW_ONE),
    **{name: st.sampled_from([each for each in legal if each != "kl"]) for name, legal in CHOICES.items()},
)


@given(RECIPES)
def test_a_recipe_and_its_text_turn_into_each_other(recipe: Recipe) -> None:
    assert spec.replace_options(Recipe(), spec.format_changed_options(recipe), "The recipe") == recipe


def test_a_whole_number_will_do_where_a_number_is_asked_for() -> None:
    recipe = spec.replace_options(Recipe(), "rate=1,clip=0,refit=no,batch=16", "The recipe")
    assert recipe == replace(Recipe(), rate=1.0, clip=0.0, refit=False, batch=16)
    assert type(recipe.rate) is float


# --- what depends on the number of images -----------------------------------------------------------------------------


@given(st.integers(1, 100_000))
def test_an_automatic_batch_is_a_power_of_two_that_leaves_updates_in_an_epoch(images: int) -> None:
    batch = Recipe().settle(images).batch
    largest = LARGE_BATCH if images >= LARGE_SET else MAX_AUTO_BATCH
    assert batch in (4, 8, 16, 32)
    assert batch <= largest
    assert batch == 4 or images / batch >= MIN_AUTO_STEPS
    assert batch == largest or images / (2 * batch) < MIN_AUTO_STEPS


@given(st.integers(1, 100_000), st.integers(1, 64), st.integers(1, 4))
def test_automatic_epochs_are_as_few_as_make_the_updates(images: int, batch: int, accumulate: int) -> None:
    epochs = Recipe(batch=batch, accumulate=accumulate).settle(images).epochs
    updates = math.ceil(images / (batch * accumulate))
    assert epochs >= MIN_EPOCHS
    assert epochs * updates >= MIN_UPDATES
    assert epochs == MIN_EPOCHS or (epochs - 1) * updates < MIN_UPDATES


def test_numbers_that_were_given_stay_and_each_phase_has_an_epoch() -> None:
    recipe = Recipe(batch=7, epochs=3, mixup=0.1)
    assert vars(recipe.settle(1000, phases=9)) == vars(recipe)
    assert Recipe().settle(100_000, phases=9).epochs == 9
