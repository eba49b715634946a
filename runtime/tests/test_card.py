"""A model's description of itself: what was written is read back, and anything else is refused in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft_runtime.card import MULTILABEL, SCHEMA, Card, CardError, dump, parse

NEEDED = ["backbone", "classes", "head", "preprocess", "strategy", "temperature"]


def card(**entries: Any) -> Card:
    """A card with every entry it needs."""
    needed = {"preprocess": {"size": 224}, "backbone": {"name": "b"}, "head": {"name": "ridge"}, "strategy": "probe"}
    return Card(**{"classes": ("cat", "dog"), "temperature": 1.5} | needed | entries)


def changed(**entries: Any) -> str:
    """The text of a card in which some entries are others; None leaves one out."""
    merged = json.loads(dump(card())) | entries
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def complaint(text: str) -> str:
    """What is wrong with this text."""
    with pytest.raises(CardError) as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.slow
@given(
    classes=st.lists(st.text(), unique=True).map(tuple),
    layers=st.lists(st.text()).map(tuple),
    temperature=st.floats(0.01, 100),
    facts=st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none())),
)
def test_a_card_comes_back_as_it_was(
    classes: tuple[str, ...], layers: tuple[str, ...], temperature: float, facts: dict[str, Any]
) -> None:
    full = card(classes=classes, layers=layers, temperature=temperature, provenance=facts, licences={"weights": "MIT"})
    again = parse(dump(full))
    assert again == full
    assert again.classes == classes  # == has two tuples for equal, and no tuple equal to a list


def test_a_card_of_several_labels_comes_back_with_its_thresholds() -> None:
    full = card(
        task=MULTILABEL, thresholds=(0.25, 1.0), top=False, pool=False, recipe={"epochs": 3}, choices={"a": [1]}
    )
    again = parse(dump(full))
    assert again == full
    assert again.thresholds == (0.25, 1.0)


def test_a_card_from_before_there_were_several_labels_has_one() -> None:
    old = parse(changed(thresholds=None, task=None, top=None, pool=None, recipe=None, choices=None))
    assert (old.task, old.thresholds, old.top, old.pool, old.recipe, old.choices) == (
        "multiclass",
        (),
        True,
        True,
        {},
        {},
    )


def test_a_card_can_be_read_by_a_person() -> None:
    text = dump(card(classes=("Käse", "蛋糕")))
    assert text.endswith("}\n")
    assert '"Käse",\n    "蛋糕"\n' in text


def test_an_entry_with_a_default_may_be_missing() -> None:
    assert parse(changed(layers=None, metrics=None, task=None)) == card()


def test_an_entry_of_tomorrow_is_passed_over() -> None:
    assert parse(changed(colour="blue")) == card()


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_entry_is_named(name: str) -> None:
    assert complaint(changed(**{name: None})) == f"it lacks {name}"


def test_all_missing_entries_are_named() -> None:
    assert complaint(f'{{"schema": {SCHEMA}}}') == f"it lacks {', '.join(NEEDED)}"


def test_a_newer_schema_asks_for_an_update() -> None:
    assert complaint(changed(schema=SCHEMA + 1)) == (
        f"it has schema {SCHEMA + 1}, this version reads up to {SCHEMA}: please update graft"
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"classes": "cat"}, "its entry 'classes' is no list of names"),
        ({"classes": ["cat", 7]}, "its entry 'classes' is no list of names"),
        ({"layers": 3}, "its entry 'layers' is no list of names"),
        ({"classes": ["cat", "dog", "cat"]}, "two of its classes have the same name"),
        ({"temperature": "warm"}, "its entry 'temperature' cannot be 'warm'"),
        ({"head": []}, "its entry 'head' cannot be []"),
        ({"top": "yes"}, "its entry 'top' cannot be 'yes'"),
        ({"thresholds": 0.5}, "its entry 'thresholds' is no list of numbers"),
        ({"thresholds": ["0.5", 0.5]}, "its entry 'thresholds' is no list of numbers"),
        ({"thresholds": [0.5]}, "it has 1 thresholds for 2 classes"),
        ({"scales": [1.0]}, "it has 1 scales for 2 classes"),
        ({"scales": [1.0, 1.0]}, "its scales, shifts and sets do not belong together"),
        ({"sets": [0.5]}, "its scales, shifts and sets do not belong together"),
        ({"unknown": 3}, "its entry 'unknown' cannot be 3"),
        ({"task": "ranking"}, "its task is 'ranking', this version knows multiclass, multilabel"),
    ],
)
def test_an_entry_of_the_wrong_kind_is_named(entries: dict[str, Any], message: str) -> None:
    assert complaint(changed(**entries)) == message


@pytest.mark.parametrize("text", ["", "{", "classes: cat", dump(card())[:-9], "\ufeff{}"])
def test_what_is_not_json_is_called_so(text: str) -> None:
    assert complaint(text).startswith("it is not JSON (")


@pytest.mark.parametrize("text", ["[]", "null", "7", '"card"', "{}", '{"schema": "1"}', changed(schema=None)])
def test_json_of_something_else_is_not_a_card(text: str) -> None:
    assert complaint(text) == "it has no schema number, so it was not written by graft"
