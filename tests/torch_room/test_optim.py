"""Groups, optimizers and schedules against formulas, resume to the bit, the range test, and the running mean."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.errors import UsageError
from graft.torch.optim import (
    RATES,
    Ema,
    Schedule,
    build_optimizer,
    compute_rate_factors,
    group_parameters,
    range_test,
    set_rate,
)
from graft.training.recipe import CHOICES, Recipe


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def by_depth(of: nn.Sequential) -> list[tuple[int, str, nn.Parameter]]:
    return [(0 if name.startswith("3.") else 1, name, weight) for name, weight in of.named_parameters()]


def started(recipe: Recipe, of: nn.Sequential, total: int) -> tuple[torch.optim.Optimizer, Schedule]:
    moved = build_optimizer(recipe, group_parameters(by_depth(of), recipe), 0.01)
    return moved, Schedule(moved, recipe, total)


def update(of: nn.Sequential, moved: torch.optim.Optimizer, number: int) -> float:
    rng = np.random.default_rng(number)
    inputs = torch.from_numpy(rng.standard_normal((16, 6)).astype(np.float32))
    loss = functional.cross_entropy(of(inputs), inputs[:, :3].argmax(1))
    moved.zero_grad()
    loss.backward()
    moved.step()
    return loss.item()


def rates_over(recipe: Recipe, total: int) -> list[float]:
    """The head's rate at each update, as a loop meets it, in shares of its rate."""
    of = network()
    moved, schedule = started(recipe, of, total)
    rates = []
    for number in range(total):
        rates.append(moved.param_groups[0]["lr"] / 0.01)
        update(of, moved, number)
        schedule.step()
    return rates


# --- groups and optimizers --------------------------------------------------------------------------------------------


def test_groups_have_their_share_of_the_rate_and_norms_and_biases_do_not_decay() -> None:
    recipe = Recipe(layer_decay=0.5, weight_decay=0.1)
    moved = build_optimizer(recipe, group_parameters(by_depth(network()), recipe), 0.01)
    found = {name: (part["lr"], part["weight_decay"]) for part in moved.param_groups for name in part["param_names"]}
    assert found == {
        "0.weight": (0.005, 0.1),
        "0.bias": (0.005, 0.0),
        "1.weight": (0.005, 0.0),
        "1.bias": (0.005, 0.0),
        "3.weight": (0.01, 0.1),
        "3.bias": (0.01, 0.0),
    }
    set_rate(moved, 1.0)
    assert {part["lr"] for part in moved.param_groups} == {0.5, 1.0}


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_the_backbones_rate_is_a_share_of_the_heads_and_falls_with_depth(share: float) -> None:
    recipe = Recipe(backbone_rate=share, layer_decay=0.5)
    deeper = [(2 * depth, name, weight) for depth, name, weight in by_depth(network())]
    found = {name: part["share"] for part in group_parameters(deeper, recipe) for name, _ in part["params"]}
    assert found["3.weight"] == found["3.bias"] == 1.0
    assert {value for name, value in found.items() if not name.startswith("3.")} == {share * 0.25}


def sgd(w: float, slope: Callable[[float], float]) -> float:
    for _ in range(3):
        w -= 0.1 * slope(w)
    return w


def momentum(w: float, slope: Callable[[float], float], nesterov: bool = False) -> float:
    speed = 0.0
    for _ in range(3):
        speed = 0.9 * speed + slope(w)
        w -= 0.1 * (slope(w) + 0.9 * speed if nesterov else speed)
    return w


def adam(w: float, slope: Callable[[float], float], decay: float = 0.0) -> float:
    mean = square = 0.0
    for count in range(1, 4):
        g = slope(w)
        w *= 1 - 0.1 * decay
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        w -= 0.1 * mean / (1 - 0.9**count) / (math.sqrt(square / (1 - 0.999**count)) + 1e-8)
    return w


def adagrad(w: float, slope: Callable[[float], float]) -> float:
    total = 0.0
    for _ in range(3):
        total += slope(w) ** 2
        w -= 0.1 * slope(w) / (math.sqrt(total) + 1e-10)
    return w


def rmsprop(w: float, slope: Callable[[float], float]) -> float:
    square = 0.0
    for _ in range(3):
        square = 0.99 * square + 0.01 * slope(w) ** 2
        w -= 0.1 * slope(w) / (math.sqrt(square) + 1e-8)
    return w


def adadelta(w: float, slope: Callable[[float], float]) -> float:
    square = moves = 0.0
    for _ in range(3):
        square = 0.9 * square + 0.1 * slope(w) ** 2
        move = math.sqrt(moves + 1e-6) / math.sqrt(square + 1e-6) * slope(w)
        moves = 0.9 * moves + 0.1 * move**2
        w -= 0.1 * move
    return w


BY_HAND = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": lambda w, slope: momentum(w, slope, nesterov=True),
    "adam": adam,
    "adamw": lambda w, slope: adam(w, slope, decay=0.5),
    "adagrad": adagrad,
    "adadelta": adadelta,
    "rmsprop": rmsprop,
}


@pytest.mark.parametrize("name", CHOICES["optimizer"])
def test_three_steps_of_each_optimizer_by_hand(name: str) -> None:
    decay = 0.5 if name == "adamw" else 0.0
    recipe = Recipe(optimizer=name, weight_decay=decay)
    weight = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    moved = build_optimizer(recipe, group_parameters([(0, "w", weight)], recipe), 0.1)
    for _ in range(3):
        moved.zero_grad()
        (0.75 * weight.square()).sum().backward()
        moved.step()
    assert weight.item() == pytest.approx(BY_HAND[name](2.0, lambda w: 1.5 * w), rel=1e-9)


# --- schedules --------------------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[int], float]] = {
    "constant": lambda n: 1.0,
    "plateau": lambda n: 1.0,
    "step": lambda n: 0.1 ** (n // 20),
    "multi-step": lambda n: 1.0 if n < 30 else 0.1 if n < 45 else 0.01,
    "high-low": lambda n: 1.0 if n < 20 else 0.1,
    "cosine": lambda n: (1 + math.cos(math.pi * n / 60)) / 2,
    "restarts": lambda n: (1 + math.cos(math.pi * (n % 20) / 20)) / 2,
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_rates_are_warm_up_times_the_shape(name: str, warmup: float) -> None:
    rise = 60 * warmup
    expected = [min(1, (n + 1) / (rise + 1)) if rise else 1.0 for n in range(60)]
    expected = [up * SHAPES[name](n) for n, up in enumerate(expected)]
    found = rates_over(Recipe(schedule=name, warmup=warmup), 60)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_warm_up_lasts_an_update_at_least() -> None:
    found = rates_over(Recipe(schedule="constant", warmup=0.1), 3)
    assert found[0] < found[1] == found[2]
    assert len(set(rates_over(Recipe(schedule="constant", warmup=0.0), 3))) == 1


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_one_cycle_rises_for_three_tenths_and_then_falls_to_almost_nothing(warmup: float) -> None:
    found = rates_over(Recipe(schedule="one-cycle", warmup=warmup), 60)
    top = 0.3 * 60 - 1
    low, end = 1 / 25, 1 / 25e4
    expected = [low + (1 - low) * (1 - math.cos(math.pi * n / top)) / 2 for n in range(18)]
    expected += [end + (1 - end) * (1 + math.cos(math.pi * (n - top) / (59 - top))) / 2 for n in range(18, 60)]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CHOICES["schedule"])
def test_short_trainings_have_a_rate_for_every_update_and_keep_the_last(name: str) -> None:
    for total in (0, 1, 2, 3, 4, 5, 7, 10, 11):
        for warmup in (0.0, 0.1, 0.9):
            recipe = Recipe(schedule=name, warmup=warmup)
            found = compute_rate_factors(recipe, total)
            assert len(found) == max(total, 1)
            assert all(0 < factor <= 1 for factor in found)
            assert found[0] > 0.01
    of = network()
    moved, schedule = started(Recipe(schedule=name), of, 3)
    for number in range(6):
        update(of, moved, number)
        schedule.step()
    assert moved.param_groups[0]["lr"] == 0.01 * compute_rate_factors(Recipe(schedule=name), 3)[-1]


@pytest.mark.parametrize(("metric", "sign"), [("loss", 1), ("accuracy", -1)])
def test_plateau_lowers_the_rate_after_two_epochs_without_a_better_metric(metric: str, sign: int) -> None:
    moved, schedule = started(Recipe(schedule="plateau", metric=metric, warmup=0.0), network(), 10)
    rates = []
    for value in (3.0, 2.0, 2.0, 1.0, 1.0, 1.5, 1.2, 1.1):
        schedule.end_epoch(sign * value)
        rates.append(moved.param_groups[0]["lr"] / 0.01)
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", [name for name in CHOICES["schedule"] if name != "plateau"])
def test_only_plateau_hears_the_metric(name: str) -> None:
    moved, schedule = started(Recipe(schedule=name), network(), 10)
    before = moved.param_groups[0]["lr"]
    for _ in range(5):
        schedule.end_epoch(1.0)
    assert moved.param_groups[0]["lr"] == before


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("kind", CHOICES["optimizer"])
def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(kind: str, schedule: str) -> None:
    recipe = Recipe(optimizer=kind, schedule=schedule, layer_decay=0.7)
    whole = network()
    moved, rates = started(recipe, whole, 12)
    saved, seen = [], []
    for number in range(12):
        state = {"weights": whole.state_dict(), "optimizer": moved.state_dict(), "schedule": rates.state_dict()}
        saved.append(copy.deepcopy(state))
        update(whole, moved, number)
        rates.step()
        if number % 2:
            rates.end_epoch(1.0)
        seen.append([part["lr"] for part in moved.param_groups])
    for at in (0, 1, 5, 6, 11):
        resumed = network(seed=1)
        again, going = started(recipe, resumed, 12)
        resumed.load_state_dict(saved[at]["weights"])
        if at % 2:  # either may be loaded first
            going.load_state_dict(saved[at]["schedule"])
            again.load_state_dict(saved[at]["optimizer"])
        else:
            again.load_state_dict(saved[at]["optimizer"])
            going.load_state_dict(saved[at]["schedule"])
        for number in range(at, 12):
            update(resumed, again, number)
            going.step()
            if number % 2:
                going.end_epoch(1.0)
            assert [part["lr"] for part in again.param_groups] == seen[number]
        for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_schedule_made_over_an_optimizer_that_was_loaded_before_goes_on_as_well() -> None:
    recipe = Recipe()
    of = network()
    moved, schedule = started(recipe, of, 10)
    for number in range(4):
        update(of, moved, number)
        schedule.step()
    again = build_optimizer(recipe, group_parameters(by_depth(of), recipe), 0.01)
    again.load_state_dict(moved.state_dict())
    Schedule(again, recipe, 10).load_state_dict(schedule.state_dict())
    assert [part["lr"] for part in again.param_groups] == [part["lr"] for part in moved.param_groups]


def test_a_saved_schedule_goes_through_a_file_of_plain_things(tmp_path_factory: pytest.TempPathFactory) -> None:
    moved, schedule = started(Recipe(schedule="plateau"), network(), 10)
    for _ in range(4):
        schedule.end_epoch(1.0)
    path = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save({"schedule": schedule.state_dict(), "optimizer": moved.state_dict()}, path)
    assert torch.load(path, weights_only=True)["schedule"] == schedule.state_dict()


# --- the range test ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [1.0, 30.0, 1000.0, 3e5])
def test_the_range_test_of_a_quadratic_finds_a_rate_below_two_over_the_curvature(curvature: float) -> None:
    steep, flat = torch.tensor([1.0, 1.0]), torch.tensor([curvature, curvature / 10])

    def step(rate: float) -> float:
        loss = float((flat * steep.square()).sum() / 2)
        steep.sub_(rate * flat * steep)
        return loss

    rate = range_test(step)
    assert 0.01 / curvature < rate < 2 / curvature
    place = 1.0
    for _ in range(300):
        place -= rate * curvature * place
    assert abs(place) < 0.1
    assert abs(1 - 100 * rate * curvature) > 1  # a hundred times the rate runs away


def problem() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 600)
    inputs = rng.standard_normal((5, 20))[labels] * 0.7 + rng.standard_normal((600, 20))
    return torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels)


def deep(kind: str, seed: int = 0) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        of = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    recipe = Recipe(optimizer=kind)
    named = [(0, name, weight) for name, weight in of.named_parameters()]
    return of, build_optimizer(recipe, group_parameters(named, recipe), 1.0)


def stepping(of: nn.Sequential, moved: torch.optim.Optimizer) -> Callable[[float], float]:
    inputs, labels = problem()
    rng = np.random.default_rng(1)

    def step(rate: float) -> float:
        set_rate(moved, rate)
        rows = torch.from_numpy(rng.choice(600, 32))
        loss = functional.cross_entropy(of(inputs[rows]), labels[rows])
        moved.zero_grad()
        loss.backward()
        moved.step()
        return loss.item()

    return step


def trained(kind: str, rate: float, updates: int = 150) -> float:
    of, moved = deep(kind)
    step = stepping(of, moved)
    losses = [step(rate) for _ in range(updates)]
    return float(np.mean(losses[-20:]))


@pytest.mark.parametrize("kind", ["sgd", "momentum", "nesterov"])
def test_the_range_test_finds_a_rate_that_trains_and_a_hundred_times_it_does_not(kind: str) -> None:
    rate = range_test(stepping(*deep(kind)))
    assert trained(kind, rate) < 0.2 * math.log(5)
    assert not trained(kind, 100 * rate) < math.log(5)  # worse than guessing; not <: it may be NaN


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_the_range_test_finds_a_rate_for_optimizers_that_never_explode(kind: str) -> None:
    rate = range_test(stepping(*deep(kind)))
    good = trained(kind, rate)
    assert good < 0.2 * math.log(5)
    assert trained(kind, 100 * rate) > 3 * good  # on a problem this small they learn a little at any rate


def test_the_range_test_of_a_network_that_is_good_already_does_not_follow_noise_to_the_lowest_rates() -> None:
    of, moved = deep("adamw")
    step = stepping(of, moved)
    for _ in range(400):
        step(1e-3)
    assert 1e-4 < range_test(step) < 1e-2


def test_the_range_test_stops_where_the_loss_explodes_and_says_when_it_was_never_finite() -> None:
    asked: list[float] = []

    def step(rate: float) -> float:
        asked.append(rate)
        return 1.0 if rate < 1e-3 else 100.0

    range_test(step)
    assert asked == [rate for rate in RATES if rate < 1e-3] + [next(rate for rate in RATES if rate >= 1e-3)]
    assert len(RATES) == 40
    with pytest.raises(UsageError, match="not finite at 1e-06"):
        range_test(lambda rate: math.nan)


def test_the_range_test_does_not_take_losses_that_differ_by_chance_for_an_explosion() -> None:
    rng = np.random.default_rng(0)
    asked: list[float] = []

    def step(rate: float) -> float:
        asked.append(rate)
        return 100.0 if rate > 1.1e-2 else float(rng.choice([0.001, 0.1]))

    assert 3e-4 < range_test(step) <= 1e-3
    assert asked[-2] < 1.1e-2 < asked[-1]


# --- the running mean -------------------------------------------------------------------------------------------------


def walk(count: int) -> list[list[Tensor]]:
    rng = np.random.default_rng(0)
    return [[torch.from_numpy(rng.standard_normal(shape)) for shape in ((2, 3), (4,))] for _ in range(count)]


def test_the_running_mean_by_its_formula() -> None:
    first, *rest = walk(30)
    ema, expected = Ema(first, 0.6), [tensor.numpy() for tensor in first]
    for n, tensors in enumerate(rest):
        ema.update(tensors)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = [decay * mean + (1 - decay) * new.numpy() for mean, new in zip(expected, tensors, strict=True)]
    for mean, hand in zip(ema.state_dict()["means"], expected, strict=True):
        np.testing.assert_allclose(mean, hand, rtol=1e-9)


def test_swapping_twice_changes_nothing_and_once_shows_the_mean() -> None:
    first, last, *_ = walk(2)
    weights = [nn.Parameter(tensor.clone()) for tensor in first]
    ema = Ema(weights, 0.9)
    with torch.no_grad():
        for weight, new in zip(weights, last, strict=True):
            weight.copy_(new)
    ema.update(weights)
    ema.swap(weights)
    for weight, start, new in zip(weights, first, last, strict=True):
        torch.testing.assert_close(weight.detach(), 0.1 * start + 0.9 * new)
    ema.swap(weights)
    for weight, new in zip(weights, last, strict=True):
        assert torch.equal(weight.detach(), new)


def test_a_resumed_mean_is_the_uninterrupted_one_to_the_bit() -> None:
    steps = walk(20)
    whole = Ema(steps[0], 0.99)
    for tensors in steps[1:10]:
        whole.update(tensors)
    saved = copy.deepcopy(whole.state_dict())
    resumed = Ema(steps[0], 0.99)
    resumed.load_state_dict(saved)
    for tensors in steps[10:]:
        whole.update(tensors)
        resumed.update(tensors)
    for one, other in zip(whole.state_dict()["means"], resumed.state_dict()["means"], strict=True):
        assert torch.equal(one, other)
