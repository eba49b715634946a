"""The loop: cached = uncached, resumed = uninterrupted, pieces = the whole batch, and what stops it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.errors import TrainingError
from graft.torch import loop
from graft.torch.feed import Feed, RowIndices
from graft.torch.loop import PhaseInputs, TrainingState
from graft.training.recipe import CHOICES, Recipe

COUNT, CLASSES = 20, 3


class Rehearsed(Feed):
    """Numbers in memory; the epoch shifts them a little, as augmentation would."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def batches(self, groups: Sequence[RowIndices], epoch: int) -> Iterator[Tensor]:
        for rows in groups:
            yield self.inputs[rows] + 0.01 * epoch

    def read_evaluation_batch(self, rows: RowIndices) -> Tensor:
        return self.inputs[rows]


def network(dropout: float = 0.2) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, CLASSES))


def lesson(tuned: nn.Module, **changed: Any) -> PhaseInputs:
    rng = torch.Generator().manual_seed(1)
    values: dict[str, Any] = {
        "tuned": tuned,
        "parameters": [(0, name, each) for name, each in tuned.named_parameters() if each.requires_grad],
        "feed": Rehearsed(torch.randn(COUNT, 6, generator=rng)),
        "targets": functional.one_hot(torch.arange(COUNT) % CLASSES, CLASSES).float(),
        "task": "multiclass",
        "recipe": Recipe(clip=0.0, warmup=0.0),
        "batch": 4,
        "rate": 0.05,
        "first_epoch": 0,
        "epochs": 3,
        "seed": 7,
        "start_weights": {name: each.detach().clone() for name, each in tuned.named_parameters()},
    }
    return PhaseInputs(**values | changed)


def trained(**changed: Any) -> tuple[dict[str, Tensor], list[float]]:
    tuned = network()
    taught = lesson(tuned, **changed)
    losses = [step.loss for step in loop.train(taught, TrainingState(taught))]
    return tuned.state_dict(), losses


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- what it computes -------------------------------------------------------------------------------------------------


def test_a_plain_training_is_what_torch_does_by_hand() -> None:
    tuned = network(dropout=0.0)
    twin = copy.deepcopy(tuned)
    taught = lesson(tuned, recipe=Recipe(optimizer="sgd", schedule="constant", warmup=0.0, clip=0.0, weight_decay=0.0))
    assert [step.number for step in loop.train(taught, TrainingState(taught))] == [1, 2, 3, 4, 5] * 3
    sgd = torch.optim.SGD(twin.parameters(), 0.05)
    inputs = Rehearsed(taught.feed.read_evaluation_batch(np.arange(COUNT)))
    for epoch in range(3):
        order = np.random.default_rng((7, epoch)).permutation(COUNT)
        groups = [order[start : start + 4] for start in range(0, COUNT, 4)]
        for rows, batch in zip(groups, inputs.batches(groups, epoch), strict=True):
            sgd.zero_grad()
            functional.cross_entropy(twin(batch), taught.targets[rows]).backward()
            sgd.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_it_learns() -> None:
    _, losses = trained(epochs=30)
    assert losses[-1] < 0.5 * losses[0]


def test_accumulated_batches_are_one_large_batch() -> None:
    four = trained(recipe=Recipe(accumulate=5, warmup=0.0), batch=4)[0]
    whole = trained(recipe=Recipe(warmup=0.0), batch=20)[0]
    dry = {"recipe": Recipe(accumulate=5, warmup=0.0), "batch": 4}
    assert same(four, trained(**dry)[0])
    # dropout is drawn for each piece, so that only a network without it gives the same sums
    one, other = network(0.0), network(0.0)
    for tuned, recipe, batch in ((one, Recipe(accumulate=5), 4), (other, Recipe(), 20)):
        taught = lesson(tuned, recipe=recipe, batch=batch)
        assert len(list(loop.train(taught, TrainingState(taught)))) == 3
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert whole.keys() == four.keys()


def test_gradients_are_clipped_to_the_length_that_the_recipe_names() -> None:
    plain = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    for clip, limit in ((0.01, 0.01), (0.0, math.inf)):
        tuned = network()
        before = copy.deepcopy(tuned.state_dict())
        taught = lesson(tuned, recipe=Recipe(clip=clip, **plain), batch=COUNT, epochs=1)
        assert len(list(loop.train(taught, TrainingState(taught)))) == 1
        steps = [(tuned.state_dict()[name] - value).norm() / taught.rate for name, value in before.items()]
        length = float(torch.stack(steps).norm())
        assert length == pytest.approx(limit, rel=1e-3) if clip else length > 0.1


def test_dropout_is_drawn_anew_at_each_step() -> None:
    tuned = network(dropout=0.5)
    dropped: list[Tensor] = []
    tuned[2].register_forward_hook(lambda _part, given, output: dropped.append((output == 0) & (given[0] != 0)))
    taught = lesson(tuned, batch=COUNT, epochs=6, rate=1e-12)
    assert len(list(loop.train(taught, TrainingState(taught)))) == 6
    taught = lesson(tuned, batch=COUNT // 2, epochs=2, rate=1e-12)
    assert len(list(loop.train(taught, TrainingState(taught)))) == 4
    for masks in (dropped[:6], dropped[6:]):
        assert len({mask.numpy().tobytes() for mask in masks}) == len(masks)


def test_the_seed_decides_and_torchs_own_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one = trained()[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(17)
    assert same(one, trained()[0])
    assert not same(one, trained(seed=8)[0])


@pytest.mark.parametrize("balance", ["weights", "logits", "sampler"])
def test_rare_classes_can_be_made_to_count(balance: str) -> None:
    labels = torch.tensor([0] * 16 + [1] * 2 + [2] * 2)
    changed = {"targets": functional.one_hot(labels, CLASSES).float(), "epochs": 20}
    said = []
    for recipe in (Recipe(), Recipe(balance=balance)):
        tuned = network(0.0)
        taught = lesson(tuned, recipe=recipe, **changed)
        assert list(loop.train(taught, TrainingState(taught)))
        said.append(tuned.eval()(taught.feed.read_evaluation_batch(np.arange(COUNT))).softmax(1).mean(0))
    assert said[1][1:].sum() > said[0][1:].sum()  # more often a rare class, in all three ways


# --- interrupted and resumed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("after", [1, 5, 7, 14])
def test_resumed_is_uninterrupted_to_the_bit(schedule: str, after: int) -> None:
    recipe = Recipe(schedule=schedule, ema=0.9, mixup=0.3, smoothing=0.1)
    whole, losses = trained(recipe=recipe)
    first = network()
    taught = lesson(first, recipe=recipe)
    state = TrainingState(taught)
    for done, _ in enumerate(loop.train(taught, state), 1):
        if done == after:
            break
    saved = copy.deepcopy((first.state_dict(), state.state_dict()))
    second = network()
    second.load_state_dict(saved[0])
    again = lesson(second, recipe=recipe, start_weights=taught.start_weights)
    resumed = TrainingState(again)
    resumed.load_state_dict(saved[1])
    rest = [step.loss for step in loop.train(again, resumed)]
    assert rest == losses[after:]
    assert same(second.state_dict(), whole)


# --- what stops it ----------------------------------------------------------------------------------------------------


def graphics_card() -> None:
    raise torch.OutOfMemoryError("out of memory")


def processor() -> None:
    torch.empty(2**60, dtype=torch.uint8)  # PyTorch's own error: no machine has an exabyte


def library() -> None:
    np.empty(2**60, dtype=np.uint8)


class Hungry(nn.Module):
    """Runs out of memory with more than so many images at once."""

    def __init__(self, inner: nn.Module, most: int, runs_out: Callable[[], None] = graphics_card) -> None:
        super().__init__()
        self.inner, self.most, self.seen, self.runs_out = inner, most, [], runs_out

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(len(inputs))
        if len(inputs) > self.most:
            self.runs_out()
        return self.inner(inputs)


@pytest.mark.fault(38)
@pytest.mark.parametrize("runs_out", [graphics_card, processor, library])
def test_when_memory_runs_out_the_batch_is_halved_and_the_result_is_the_same(runs_out: Callable[[], None]) -> None:
    results = []
    for most in (100, 3):
        tuned = Hungry(network(0.0), most, runs_out)
        taught = lesson(tuned, batch=10)
        state = TrainingState(taught)
        assert len(list(loop.train(taught, state))) == 6
        results.append((tuned.inner.state_dict(), state.chunk, tuned.seen))
    assert results[0][1] == 10
    assert results[1][1] == 2
    assert results[1][2].count(10) == 1  # learned once, not at every step
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.fault(38)
def test_not_even_one_image_fits() -> None:
    taught = lesson(Hungry(network(), 0))
    with pytest.raises(TrainingError, match="Memory does not suffice to train on a single image"):
        list(loop.train(taught, TrainingState(taught)))


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_loss_that_is_no_number_stops_before_it_touches_the_weights(value: float) -> None:
    tuned = network(0.0)
    taught = lesson(tuned)
    inputs = taught.feed.read_evaluation_batch(np.arange(COUNT)).clone()
    order = np.random.default_rng((7, 0)).permutation(COUNT)
    inputs[order[9]] = value  # in the third step
    taught = lesson(tuned, feed=Rehearsed(inputs))
    steps, seen = loop.train(taught, TrainingState(taught)), []
    with pytest.raises(TrainingError, match=r"The loss .* in epoch 1, step 3, at rate 0\.05\. Lower .*rate=0\.005"):
        seen.extend(copy.deepcopy(tuned.state_dict()) for _ in steps)
    assert len(seen) == 2
    assert same(tuned.state_dict(), seen[-1])


def test_batch_norm_keeps_its_statistics_unless_told() -> None:
    for mode, moves in (("frozen", False), ("train", True)):
        tuned = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
        taught = lesson(tuned, recipe=Recipe(batch_norm=mode))
        before = copy.deepcopy(tuned.state_dict())
        assert list(loop.train(taught, TrainingState(taught)))
        assert torch.equal(tuned.state_dict()["0.running_mean"], before["0.running_mean"]) is not moves
        assert not torch.equal(tuned.state_dict()["0.weight"], before["0.weight"])


def test_one_image_has_no_statistics_to_normalise_with() -> None:
    tuned = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
    taught = lesson(tuned, recipe=Recipe(batch_norm="train"), batch=COUNT - 1, epochs=1)
    losses = [step.loss for step in loop.train(taught, TrainingState(taught))]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


def test_the_range_test_leaves_the_weights_and_finds_a_rate_that_trains() -> None:
    tuned = network(0.0)
    taught = lesson(tuned, rate=1.0, epochs=20)
    before = copy.deepcopy(tuned.state_dict())
    rate = loop.find_rate(taught)
    assert same(tuned.state_dict(), before)
    assert 1e-5 < rate < 1
    taught = lesson(tuned, rate=rate, epochs=20)
    losses = [step.loss for step in loop.train(taught, TrainingState(taught))]
    assert losses[-1] < 0.7 * losses[0]


# --- held out ---------------------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_network_in_eval_mode() -> None:
    tuned = network(0.5)
    taught = lesson(tuned)
    said = loop.predict_logits(tuned.train(), taught.feed, 13, 4)
    want = tuned.eval()(taught.feed.read_evaluation_batch(np.arange(13))).detach().numpy()
    np.testing.assert_allclose(said, want, rtol=1e-6)
