"""The strategies: a text for each and back, phases that go down the chain, and options that refuse nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft import spec
from graft.errors import UsageError
from graft.heads.designs import HEAD_NAMES, LAYER_CHOICES
from graft.training.strategies import (
    STRATEGIES,
    Direct,
    EarlyFeatures,
    FinetuneStrategy,
    Full,
    Gradual,
    Lora,
    LpFt,
    Norm,
    Probe,
    Scratch,
    Tail,
    TwoPhase,
)

CUTS = st.sampled_from(["head", "0", "-1", "0.75", "layer3", "blocks.4.0"])
SOLVERS = st.sampled_from(HEAD_NAMES)
VALUES: dict[type[Any], st.SearchStrategy[Any]] = {
    Direct: st.builds(Direct),
    Probe: st.builds(Probe, head=SOLVERS, layers=st.sampled_from(LAYER_CHOICES), views=st.integers(1, 64)),
    EarlyFeatures: st.builds(
        EarlyFeatures,
        at=st.sampled_from(["0.5", "2", "blocks.2+blocks.4", "layer1+-1"]),
        solver=SOLVERS,
        views=st.integers(1, 64),
        cut=CUTS,
    ),
    Tail: st.one_of(
        st.builds(Tail, cut=CUTS, views=st.integers(0, 64), until=st.none() | CUTS),
        st.builds(Tail, views=st.integers(0, 64), last=st.integers(1, 99)),
    ),
    LpFt: st.builds(LpFt, cut=CUTS),
    TwoPhase: st.builds(
        TwoPhase,
        first=st.floats(0, 1, exclude_min=True, exclude_max=True),
        lower=st.floats(0, 1, exclude_min=True),
    ),
    Gradual: st.builds(Gradual, steps=st.integers(2, 100)),
    Full: st.builds(Full),
    Scratch: st.builds(Scratch),
    Lora: st.builds(Lora, rank=st.integers(1, 1000), cut=CUTS),
    Norm: st.builds(Norm, cut=CUTS),
}
TRAINED = {name: kind for name, kind in STRATEGIES.items() if kind not in (Direct, Probe)}


# --- texts ------------------------------------------------------------------------------------------------------------


def test_every_strategy_is_tried_below() -> None:
    assert set(VALUES) == set(STRATEGIES.values())


@given(st.one_of(*VALUES.values()))
def test_a_strategy_and_its_text_turn_into_each_other(value: Any) -> None:
    assert spec.parse(spec.format_spec(value, STRATEGIES), STRATEGIES) == value


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_name_alone_is_the_strategy_with_its_defaults(name: str) -> None:
    value = spec.parse(name, STRATEGIES)
    assert value == STRATEGIES[name]()
    assert spec.format_spec(value, STRATEGIES) == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tail:views=-1", "'views' must be from 0 to 64. Got -1."),
        ("tail:views=65", "'views' must be from 0 to 64. Got 65."),
        ("tail:last=0", "'last', a number of layers, must be at least 1. Got 0."),
        ("tail:last=x", "'last' must be a whole number. Got 'x'."),
        ("tail:last=2,cut=0.75", "'last' and 'cut' both say what is trained: choose one of them."),
        ("tail:until=0.9,last=2", "'last' and 'until' both say what is trained: choose one of them."),
        ("probe:views=0", "'views' must be from 1 to 64. Got 0."),
        ("early-features:views=0", "'views' must be from 1 to 64. Got 0."),
        ("early-features:solver=magic", "There is no head 'magic'"),
        ("two-phase:first=0", "'first', the head's share of the epochs, must be between 0 and 1. Got 0.0."),
        ("two-phase:first=1", "'first', the head's share of the epochs, must be between 0 and 1. Got 1.0."),
        ("two-phase:lower=0", "'lower', a factor of the rate, must be above 0 and at most 1. Got 0.0."),
        ("two-phase:lower=1.5", "'lower', a factor of the rate, must be above 0 and at most 1. Got 1.5."),
        ("two-phase:lower=nan", "'lower', a factor of the rate, must be above 0 and at most 1. Got nan."),
        ("gradual:steps=1", "'steps' must be at least 2: the head, and everything. Got 1."),
        ("lora:rank=0", "'rank' must be at least 1. Got 0."),
        ("full:cut=0", "'full' has no option 'cut'. It has none."),
        ("tails", "There is no strategy 'tails'. Did you mean 'tail'? Choose one of: direct, probe,"),
    ],
)
def test_an_option_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        spec.parse(text, STRATEGIES)
    assert says in str(caught.value)


# --- phases -----------------------------------------------------------------------------------------------------------


def place(cut: str, chain: list[str]) -> int:
    return len(chain) if cut == "head" else round(float(cut) * len(chain)) if "." in cut else int(cut)


@given(st.sampled_from(list(TRAINED)), st.integers(1, 60), st.integers(2, 12))
def test_phases_share_all_epochs_and_never_freeze_again(name: str, stages: int, steps: int) -> None:
    plan = Gradual(steps) if name == "gradual" else TRAINED[name]()
    assert isinstance(plan, FinetuneStrategy)
    chain = [f"s{number}" for number in range(stages)]
    phases = plan.phases(chain)
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    places = [place(phase.cut, chain) for phase in phases]
    assert places == sorted(places, reverse=True)
    assert all(0 < phase.rate <= 1 for phase in phases)


@given(st.integers(1, 60), st.integers(2, 12))
def test_gradual_goes_from_the_head_to_everything_in_as_many_steps_as_there_are(stages: int, steps: int) -> None:
    cuts = [phase.cut for phase in Gradual(steps).phases([f"s{number}" for number in range(stages)])]
    assert (cuts[0], cuts[-1]) == ("head", "0")
    assert len(cuts) == len(set(cuts)) == min(steps, stages + 1)


def test_views_are_kept_only_where_something_is_frozen() -> None:
    chain = [f"s{number}" for number in range(9)]
    for name, kind in TRAINED.items():
        for phase in kind().phases(chain):
            assert bool(phase.views) == (phase.cut != "0"), name


def test_what_is_trained_above_the_cut() -> None:
    only = {name: {phase.only for phase in kind().phases(["a", "b", "c"])} for name, kind in TRAINED.items()}
    assert only.pop("lora") == {"adapters"}
    assert only.pop("norm") == {"norms"}
    assert all(each == {"all"} for each in only.values())


def test_where_each_starts() -> None:
    starts = {name: kind.start for name, kind in TRAINED.items()}
    assert {name for name, start in starts.items() if start == "solved"} == {"tail", "lp-ft", "lora", "norm"}
    assert {name for name, start in starts.items() if start == "random"} == {"scratch"}
