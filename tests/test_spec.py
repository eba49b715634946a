"""'probe:views=4' and the dataclass it stands for turn into each other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft import spec
from graft.errors import UsageError
from graft.training.strategies import STRATEGIES


@dataclass(frozen=True)
class Probe:
    head: str = "auto"
    views: int = 1
    strength: float = 0.5


@dataclass(frozen=True)
class Full:
    epochs: int = 3


KINDS = {"probe": Probe, "full": Full}
WORDS = st.text(st.characters(exclude_characters=",", exclude_categories=("Cs",)))  # a comma ends an option


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("probe", Probe()),
        ("probe:", Probe()),
        ("full", Full()),
        ("probe:views=4", Probe(views=4)),
        ("probe:strength=1e-3,head=ridge", Probe(head="ridge", strength=0.001)),
        ("probe:views=4,,strength=2,", Probe(views=4, strength=2.0)),
        ("probe:head=a=b:c", Probe(head="a=b:c")),
        ("full:epochs=-1", Full(-1)),
    ],
)
def test_a_text_names_a_value(text: str, value: object) -> None:
    assert spec.parse(text, KINDS) == value


def test_a_number_has_the_kind_of_its_default() -> None:
    value = spec.parse("probe:strength=2,views=3", KINDS)
    assert (type(value.strength), type(value.views)) == (float, int)


@pytest.mark.parametrize(
    ("value", "text"),
    [(Probe(), "probe"), (Probe(strength=2.0, head="svm"), "probe:head=svm,strength=2.0"), (Full(4), "full:epochs=4")],
)
def test_a_value_is_written_without_its_defaults(value: object, text: str) -> None:
    assert spec.format_spec(value, KINDS) == text


@given(head=WORDS, views=st.integers(), strength=st.floats(allow_nan=False))
def test_what_was_written_is_read_back(head: str, views: int, strength: float) -> None:
    value = Probe(head, views, strength)
    assert spec.parse(spec.format_spec(value, KINDS), KINDS) == value


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_written_as_its_name(name: str) -> None:
    assert spec.format_spec(spec.parse(name, STRATEGIES), STRATEGIES) == name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("prob", ["'prob'", "probe, full"]),
        ("", ["''", "probe, full"]),
        ("probe:view=4", ["'probe'", "'view'", "head, views, strength"]),
        ("full:views=4", ["'full'", "'views'", "epochs"]),
        ("probe:views=four", ["'views'", "a whole number", "'four'"]),
        ("probe:views=4,views=5", ["'probe'", "'views' twice"]),
        ("probe:views=4.5", ["'views'", "a whole number", "'4.5'"]),
        ("probe:views", ["'views'", "a whole number", "''"]),
        ("probe:strength=much", ["'strength'", "a number", "'much'"]),
    ],
)
def test_a_wrong_text_is_answered_with_what_was_given_and_what_is_legal(text: str, names: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        spec.parse(text, KINDS)
    assert [name for name in names if name not in str(caught.value)] == []
