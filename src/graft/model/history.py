"""What each epoch brought, as a value, as a row of history.csv and as a line on the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graft.errors import TrainingError
from graft.model import whole

FILE = "history.csv"
COLUMNS = ("phase", "epoch", "of", "step", "rate", "loss", "seconds", "pictures", "best")
VALID = "valid "  # before the name of a metric, in the file: the training loss is called loss as well
SHARES = ("accuracy", "balanced-accuracy", "macro-f1", "micro-f1")  # shown as percentages


@dataclass(frozen=True)
class Epoch:
    """One pass over the training pictures.

    `number` counts from 1 over the whole run, whatever its phases; `step` is the number of updates so far; `rate` and
    `loss` are those of training, and `metrics` those on the validation pictures, if there are any: 'loss', 'accuracy'
    and so on. `best` says that no epoch before was better.
    """

    phase: str
    number: int
    of: int
    step: int
    rate: float
    loss: float
    seconds: float
    pictures: int
    metrics: dict[str, float] = field(default_factory=dict)
    best: bool = False


def append(path: Path, epoch: Epoch) -> None:
    """Add a row. Rows from this epoch on, which a run that was resumed does again, are dropped."""
    before = read(path) if path.exists() else []
    write(path, [each for each in before if each.number < epoch.number] + [epoch])


def write(path: Path, epochs: Iterable[Epoch]) -> None:
    """One row an epoch, the metrics sorted by name; the file is replaced whole. Raises OSError."""
    with whole.file(path) as file:
        file.write(text(list(epochs)).encode())


def text(epochs: list[Epoch]) -> str:
    """The table that `write` writes."""
    metrics = sorted({name for epoch in epochs for name in epoch.metrics})
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([*COLUMNS, *(VALID + name for name in metrics)])
    for each in epochs:
        own = (each.phase, each.number, each.of, each.step, each.rate, each.loss, each.seconds, each.pictures)
        table.writerow([*own, "yes" if each.best else "no", *(each.metrics.get(name, "") for name in metrics)])
    return out.getvalue()


def read(path: Path) -> list[Epoch]:
    """The epochs that `write` wrote, number for number; TrainingError where somebody else did."""
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        return [_epoch(row) for row in table]
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise TrainingError(f"{path} is no history of epochs: {error}. Delete it to begin a new one.") from error


def line(epoch: Epoch) -> str:
    """What a person reads while it trains: 'epoch 3/10  loss 0.412  valid loss 0.388  accuracy 91.2 %  best  1.8 s'."""
    metrics = dict(epoch.metrics)
    valid = [f"valid loss {_number(metrics.pop('loss'))}"] if "loss" in metrics else []
    others = [f"{name} {_share(name, value)}" for name, value in sorted(metrics.items())]
    best = ["best"] if epoch.best else []
    first = [f"epoch {epoch.number}/{epoch.of}", f"loss {_number(epoch.loss)}"]
    return "  ".join([*first, *valid, *others, *best, f"{epoch.seconds:.1f} s"])


def _epoch(row: Mapping[str, str]) -> Epoch:
    return Epoch(
        phase=row["phase"],
        number=int(row["epoch"]),
        of=int(row["of"]),
        step=int(row["step"]),
        rate=float(row["rate"]),
        loss=float(row["loss"]),
        seconds=float(row["seconds"]),
        pictures=int(row["pictures"]),
        metrics={name.removeprefix(VALID): float(row[name]) for name in row if name.startswith(VALID) and row[name]},
        best={"yes": True, "no": False}[row["best"]],
    )


def _number(value: float) -> str:
    """Three decimals, or three figures where these would be zeros."""
    return f"{value:.2e}" if 0 < abs(value) < 0.001 and math.isfinite(value) else f"{value:.3f}"


def _share(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name in SHARES else _number(value)
