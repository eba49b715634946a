"""The history of a training: written = read, no epoch twice, and a line that a person can read."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from graft.errors import TrainingError
from graft.model import history
from graft.model.history import Epoch

FIRST = Epoch("head", 1, 3, 20, 1e-3, 0.7, 1.25, 96, {"loss": 0.1 + 0.2, "accuracy": 0.5}, True)
SECOND = dataclasses.replace(FIRST, phase="all", number=2, step=40, loss=1 / 3, best=False)

numbers = some.floats(allow_nan=False)
epochs = some.builds(
    Epoch,
    phase=some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\r\0")),
    number=some.integers(1),
    rate=numbers,
    loss=numbers,
    seconds=numbers,
    metrics=some.dictionaries(some.sampled_from(["loss", "accuracy", "macro-f1"]), numbers),
    best=some.booleans(),
)


@given(some.lists(epochs, max_size=4))
def test_written_is_read_number_for_number(tmp_path_factory: pytest.TempPathFactory, written: list[Epoch]) -> None:
    path = tmp_path_factory.getbasetemp() / "history.csv"
    history.write(path, written)
    assert history.read(path) == written


def test_the_table_is_one_that_people_can_open(tmp_path: Path) -> None:
    history.append(tmp_path / "history.csv", FIRST)
    history.append(tmp_path / "history.csv", SECOND)
    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "phase,epoch,of,step,rate,loss,seconds,images,best,valid accuracy,valid loss",
        "head,1,3,20,0.001,0.7,1.25,96,yes,0.5,0.30000000000000004",
        "all,2,3,40,0.001,0.3333333333333333,1.25,96,no,0.5,0.30000000000000004",
    ]


def test_an_epoch_done_again_replaces_the_one_before_and_all_after(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    for number in range(1, 6):
        history.append(path, dataclasses.replace(FIRST, number=number))
    history.append(path, dataclasses.replace(FIRST, number=3, loss=9.0))
    found = history.read(path)
    assert [(each.number, each.loss) for each in found] == [(1, 0.7), (2, 0.7), (3, 9.0)]


def test_a_metric_that_comes_later_is_empty_before(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    later = dataclasses.replace(SECOND, metrics={"auc": 0.75})
    history.append(path, dataclasses.replace(FIRST, metrics={}))
    history.append(path, later)
    assert history.read(path) == [dataclasses.replace(FIRST, metrics={}), later]


def test_a_loss_that_is_no_number_survives(tmp_path: Path) -> None:
    history.write(tmp_path / "history.csv", [dataclasses.replace(FIRST, loss=math.nan, metrics={"loss": math.inf})])
    (found,) = history.read(tmp_path / "history.csv")
    assert math.isnan(found.loss)
    assert found.metrics == {"loss": math.inf}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no column 'phase'"),
        (b"phase,epoch\nall,1\n", "it has no column 'of'"),
        (b"phase,epoch,of,step,rate,loss,seconds,images,best\nall,one,2,3,4,5,6,7,yes\n", "'one'"),
        (b"phase,epoch,of,step,rate,loss,seconds,images,best\nall,1,2,3,4,5,6,7,maybe\n", "'maybe'"),
        (b"phase,epoch,of,step,rate,loss,seconds,images,best\nall,1,2\n", "no history of epochs"),
        (b"phase,epoch,of,step,rate,loss,seconds,images,best\nall,1,2,3,4,5,6,7,yes,more\n", "no history of epochs"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_a_file_that_somebody_changed_is_an_error_that_names_it(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=reason) as caught:
        history.read(path)
    assert str(path) in str(caught.value)
    assert "Delete it" in str(caught.value)


@pytest.mark.parametrize(
    ("epoch", "line"),
    [
        (
            Epoch("all", 3, 10, 60, 1e-3, 0.4119, 1.84, 96, {"accuracy": 0.912, "loss": 0.3881}, True),
            "epoch 3/10  loss 0.412  valid loss 0.388  accuracy 91.2 %  best  1.8 s",
        ),
        (Epoch("all", 3, 10, 60, 1e-3, 0.00004119, 12.0, 96), "epoch 3/10  loss 4.12e-05  12.0 s"),
        (Epoch("all", 3, 10, 60, 1e-3, math.nan, 0.0, 96, {"map": 0.5}), "epoch 3/10  loss nan  map 0.500  0.0 s"),
    ],
)
def test_the_line_for_people(epoch: Epoch, line: str) -> None:
    assert history.format_epoch(epoch) == line


def test_a_history_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history.write(path, [FIRST, SECOND])
    path.write_text(path.read_text().replace(",images,", ",pictures,"))
    assert history.read(path) == [FIRST, SECOND]
    plain = dataclasses.asdict(FIRST)
    plain["pictures"] = plain.pop("images")
    assert history.epoch_from_dict(plain) == FIRST
