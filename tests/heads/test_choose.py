"""The choice of head and layers: by evidence, and by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graft.data.duplicates import mean_and_std
from graft.errors import DataError, UsageError
from graft.heads import choose, classical, designs, head, linear
from graft.heads.head import Problem, standardise_features

WIDTHS = (6, 8)


def problems(where: int, apart: float = 3.0) -> dict[str, Problem]:
    """Two layers, of which one carries the label: 0 the early, 1 the last."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    layers = [rng.standard_normal((80, width)) for width in WIDTHS]
    layers[where] += apart * np.eye(4, WIDTHS[where])[labels]
    features = np.concatenate(layers, axis=1).astype(np.float32)
    fold = (np.arange(80) // 4 % 4).astype(np.int8)
    whole = Problem(standardise_features(features, WIDTHS), labels, np.arange(80), fold, 4)
    return {"last": replace(whole, features=whole.features.drop_before(WIDTHS[0])), "all": whole}


def test_the_layers_that_carry_the_label_are_chosen() -> None:
    early, last = (choose.choose_head("auto", "auto", problems(where)) for where in (0, 1))
    assert (early.layers, last.layers) == ("all", "last")
    assert early.columns.tolist() == list(range(14))
    assert last.columns.tolist() == list(range(6, 14))
    assert early.solution.accuracy(problems(0)["all"].labels) > 0.9


@pytest.mark.parametrize("where", [0, 1])
def test_auto_is_the_lowest_loss_of_what_was_tried(where: int) -> None:
    given = problems(where, apart=1.5)
    chosen = choose.choose_head("auto", "auto", given)
    losses = [linear.solve_ridge(given["last"]).loss, linear.solve_ridge(given["all"]).loss]
    layers = ("all", "last")[where]
    assert layers == ("last", "all")[int(np.argmin(losses))]
    losses.append(linear.solve_logistic(given[layers]).loss)
    assert [(line["head"], line["layers"]) for line in chosen.candidates] == [
        *(("ridge", "last"), ("ridge", "all"), ("logistic", layers))
    ]
    assert [line["out_of_fold_loss"] for line in chosen.candidates] == pytest.approx(losses)
    assert chosen.solution.loss == pytest.approx(min(losses))
    assert chosen.layers == layers


def noise(better: float, seed: int = 0) -> dict[str, Problem]:
    """Both choices of layers carry the label; the early layer adds so much to what the last one says."""
    rng = np.random.default_rng(seed)
    labels = np.arange(200) % 2
    last = rng.standard_normal((200, 3)) + 0.8 * np.eye(2, 3)[labels]
    early = rng.standard_normal((200, 2)) + better * np.eye(2)[labels]
    features = np.concatenate([early, last], axis=1).astype(np.float32)
    whole = Problem(
        standardise_features(features, (2, 3)), labels, np.arange(200), (np.arange(200) // 2 % 4).astype(np.int8), 2
    )
    return {"last": replace(whole, features=whole.features.drop_before(2)), "all": whole}


def test_within_noise_the_last_layer_alone_is_read() -> None:
    given = noise(0.4)
    one, other = (linear.solve_ridge(given[layers]) for layers in ("all", "last"))
    assert one.loss < other.loss
    assert 0 < choose.paired_z_score(one, other, given["all"]) < choose.MIN_Z_SCORE
    assert choose.choose_head("ridge", "auto", given).layers == "last"
    clear = noise(1.5)
    assert (
        choose.paired_z_score(linear.solve_ridge(clear["all"]), linear.solve_ridge(clear["last"]), clear["all"])
        > choose.MIN_Z_SCORE
    )
    assert choose.choose_head("ridge", "auto", clear).layers == "all"


def test_copies_of_an_image_are_no_evidence_of_their_own() -> None:
    given = noise(0.5)
    one, other = (linear.solve_ridge(given[layers]) for layers in ("all", "last"))
    alone = choose.paired_z_score(one, other, given["all"])
    twice = replace(given["all"], groups=np.arange(200) // 2)
    assert 0 < choose.paired_z_score(one, other, twice) < alone * 1.3
    doubled = [replace(each, logits=np.repeat(each.logits, 2, axis=0)) for each in (one, other)]
    copied = replace(given["all"], labels=np.repeat(given["all"].labels, 2), groups=np.repeat(np.arange(200), 2))
    assert choose.paired_z_score(*doubled, copied) == pytest.approx(alone, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("head", [name for name in designs.HEAD_NAMES if name != "auto"])
def test_a_named_head_on_named_layers_is_that_and_nothing_else(head: str) -> None:
    chosen = choose.choose_head(head, "last", problems(0, apart=9))
    assert [(line["head"], line["layers"]) for line in chosen.candidates] == [(head, "last")]
    assert (chosen.solution.name, chosen.layers) == (head, "last")
    assert chosen.candidates[0]["out_of_fold_accuracy"] == chosen.solution.accuracy(problems(0)["last"].labels)


def test_names_that_do_not_exist_are_answered_with_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"no head 'tree'\. There are auto, ridge, .*, mlp, forest"):
        choose.choose_head("tree", "auto", problems(0))
    with pytest.raises(UsageError, match=r"Layers are auto, last, all\. Got 'first'"):
        choose.choose_head("auto", "first", problems(0))


def test_features_that_exceed_memory_leave_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "MAX_FEATURE_BYTES", 80 * 14 * 4 - 1)
    with pytest.raises(DataError, match=r"'svm' needs all features in memory.*head=ridge"):
        choose.choose_head("svm", "auto", problems(0))
    assert choose.choose_head("ridge", "auto", problems(0)).solution.name == "ridge"


def test_layers_are_made_comparable_whatever_their_scale_and_width() -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((50, 14)) * rng.uniform(0.1, 9, 14) + 5).astype(np.float32)
    features[:, 3] = 7  # one that never changes
    made = standardise_features(features, WIDTHS)[np.arange(50)]
    assert np.allclose(made.mean(axis=0), 0, atol=1e-5)
    spread = made.std(axis=0)
    assert np.allclose(np.delete(spread[:6], 3), np.sqrt(8 / 6), atol=1e-4)
    assert np.allclose(spread[6:], 1, atol=1e-4)
    assert spread[3] == 0
    assert mean_and_std(features)[1][3] == 1


def test_the_names_are_those_of_all_solvers() -> None:
    assert ("auto", "ridge", "logistic", *classical.CLASSICAL_NAMES) == designs.HEAD_NAMES


@pytest.mark.parametrize(
    "head",
    [
        *(name for name in designs.HEAD_NAMES if name not in ("auto", "forest")),
        pytest.param("forest", marks=pytest.mark.slow),
    ],
)
def test_solving_tells_how_far_it_is(head: str) -> None:
    steps: dict[str, list[int]] = {}

    def watch(things: Any, what: Any, count: int) -> Iterator[Any]:
        for at, thing in enumerate(things, 1):
            steps[what] = [at, count]
            yield thing

    choose.choose_head(head, "last", problems(1), watch=watch)
    ((what, (done, count)),) = steps.items()
    assert what == f"{head} head"
    assert count / 8 <= done <= count > 4  # a path of penalties may be given up before its end
