"""Ridge: the closed form is the model that brute force fits, and its left-out answers are honest refits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.data import duplicates
from graft.heads import head as problem_module
from graft.heads import linear
from graft.heads.head import Problem, standardise_features
from graft.metrics.calibration import fit_temperature

CLOSE = 2e-5  # features and axes are float32
CLOSE_WHEN_WIDE = 2e-3  # more features than images: 1 - leverage is small, and what is divided by it is rounded


def problem_of(count: int, width: int, classes: int = 3, views: int = 1, grouped: bool = False) -> Problem:
    rng = np.random.default_rng(count + width)
    images = np.repeat(np.arange(count // views), views)
    units = images // (1 + images % 2 * 3) if grouped else images  # groups of one to four images and their views
    labels = rng.integers(0, classes, count // views)[images]
    features = rng.standard_normal((count, width)) + np.eye(classes, width)[labels] * (1.5 if width < count else 4)
    raw = (features * rng.uniform(0.5, 3, width) + rng.uniform(-2, 2, width)).astype(np.float32)
    fold = (units % 4).astype(np.int8)
    return Problem(standardise_features(raw, (width,)), labels.astype(np.int64), units.astype(np.int64), fold, classes)


def refit(problem: Problem, keep: NDArray[np.bool_], penalty: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [d, classes] and intercept of the ridge on some rows; the intercept is not shrunk."""
    x = problem.matrix[keep].astype(np.float64)
    y = np.where(np.arange(problem.classes) == problem.labels[keep][:, None], 1.0, -1.0)
    centred = x - x.mean(axis=0)
    gram = centred.T @ centred + penalty * np.eye(problem.width)
    weight = np.linalg.solve(gram, centred.T @ (y - y.mean(axis=0)))
    return weight, y.mean(axis=0) - x.mean(axis=0) @ weight


def without_its_unit(problem: Problem, strength: float) -> NDArray[np.float64]:
    answers = np.empty((len(problem), problem.classes))
    for unit in np.unique(problem.groups):
        out = problem.groups == unit
        weight, intercept = refit(problem, ~out, strength * len(problem))
        answers[out] = problem.matrix[out] @ weight + intercept
    return answers


PROBLEMS = {
    "more images than features": problem_of(40, 12),
    "more features than images": problem_of(40, 70),
    "two classes": problem_of(40, 12, classes=2),
    "views": problem_of(40, 12, views=2),
    "groups": problem_of(40, 12, grouped=True),
    "groups and views of many features": problem_of(48, 90, views=2, grouped=True),
}


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return request.param


def test_left_out_answers_are_those_of_a_fit_without_the_unit(problem: Problem) -> None:
    for strength in (1e-2, 1.0, 100.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear, "RIDGE_PENALTIES", np.array([strength]))
            solved = linear.solve_ridge(problem)
        close = CLOSE if problem.width < len(problem) or strength > 0.1 else CLOSE_WHEN_WIDE
        assert np.abs(solved.logits - without_its_unit(problem, strength)).max() < close
        assert solved.loss == fit_temperature(solved.logits, problem.labels)[1]


def test_the_units_of_a_problem_have_one_to_four_rows_or_more() -> None:
    assert set(np.bincount(PROBLEMS["groups"].groups)) >= {1, 2, 3}
    assert max(np.bincount(PROBLEMS["groups and views of many features"].groups)) >= 6


def test_the_penalty_is_the_one_with_the_lowest_left_out_loss(problem: Problem) -> None:
    losses = [fit_temperature(without_its_unit(problem, each), problem.labels)[1] for each in linear.RIDGE_PENALTIES]
    solved = linear.solve_ridge(problem)
    chosen = linear.RIDGE_PENALTIES.tolist().index(solved.strength)
    assert losses[chosen] <= min(losses) + 1e-3
    assert solved.loss == pytest.approx(losses[chosen], abs=1e-3)
    assert max(losses) > min(losses) + 5e-3  # there was something to choose


def test_the_head_gives_the_closed_form_on_features_as_they_come(problem: Problem) -> None:
    solved = linear.solve_ridge(problem)
    weight, intercept = refit(problem, np.ones(len(problem), bool), solved.strength * len(problem))
    raw = problem.features.features[np.arange(len(problem))]
    got = solved.head(raw)
    assert np.abs(got - (problem.matrix @ weight + intercept)).max() < CLOSE
    assert solved.head.spec == {"kind": "linear", "width": problem.width, "classes": problem.classes}


@pytest.mark.parametrize("shape", [(40, 12), (40, 70)])
def test_blocks_that_fit_in_memory_give_what_the_whole_gives(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(*shape, grouped=True)
    whole = linear.solve_ridge(problem)
    sizes: list[int] = []

    class Rows:
        def __len__(self) -> int:
            return len(problem)

        def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
            sizes.append(len(rows))
            return problem.features.features[rows]

    for module in (linear, problem_module):
        monkeypatch.setattr(module, "iterate_blocks", lambda features: duplicates.iterate_blocks(features, 7))
    monkeypatch.setattr(linear, "ROWS_PER_BLOCK", 7)
    streamed = linear.solve_ridge(replace(problem, features=replace(problem.features, features=Rows())))
    assert max(sizes) <= 7
    assert streamed.strength == whole.strength
    assert np.abs(streamed.logits - whole.logits).max() < CLOSE_WHEN_WIDE
    assert np.allclose(streamed.head.tensors["judge.weight"], whole.head.tensors["judge.weight"], atol=CLOSE)
