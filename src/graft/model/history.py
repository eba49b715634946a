"""Training history: one record per epoch, as a row of history.csv and as a line on the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft import atomic
from graft.errors import TrainingError

FILE = "history.csv"
COLUMNS = ("phase", "epoch", "of", "step", "rate", "loss", "seconds", "images", "best")
RENAMED = {"pictures": "images"}  # as earlier versions wrote it
VALID_PREFIX = "valid "  # of metrics in the file: the training loss is called loss as well
PERCENT_METRICS = ("accuracy", "balanced-accuracy", "macro-f1", "micro-f1")  # shown as percentages
SCOPE_TEXTS = {"all": "", "adapters": ", adapters only", "norms": ", norms and biases only"}


@dataclass(frozen=True)
class Epoch:
    """Record of one pass over the training images.

    `number` counts from 1 over all phases of the run; `step` is the number of updates so far; `rate` and `loss` are
    those of training, and `metrics` those on the validation images, if any: 'loss', 'accuracy' and so on. `best` is
    True if no epoch before was better.
    """

    phase: str
    number: int
    of: int
    step: int
    rate: float
    loss: float
    seconds: float
    images: int
    metrics: dict[str, float] = field(default_factory=dict)
    best: bool = False


def epoch_from_dict(plain: Mapping[str, Any]) -> Epoch:
    """Return the epoch that `vars` or `asdict` wrote, in this version or an earlier one."""
    return Epoch(**{RENAMED.get(name, name): value for name, value in plain.items()})


def append(path: Path, epoch: Epoch) -> None:
    """Add a row. Rows from this epoch on are dropped: a resumed run repeats them."""
    before = read(path) if path.exists() else []
    write(path, [each for each in before if each.number < epoch.number] + [epoch])


def write(path: Path, epochs: Iterable[Epoch]) -> None:
    """Replace the file by one row per epoch, metrics sorted by name. Raises OSError."""
    with atomic.atomic_file(path) as file:
        file.write(format_csv(list(epochs)).encode())


def format_csv(epochs: list[Epoch]) -> str:
    """Return the text that `write` writes."""
    metrics = sorted({name for epoch in epochs for name in epoch.metrics})
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([*COLUMNS, *(VALID_PREFIX + name for name in metrics)])
    for each in epochs:
        own = (each.phase, each.number, each.of, each.step, each.rate, each.loss, each.seconds, each.images)
        table.writerow([*own, "yes" if each.best else "no", *(each.metrics.get(name, "") for name in metrics)])
    return out.getvalue()


def read(path: Path) -> list[Epoch]:
    """Read the epochs from a file of `write`, without loss. Raises TrainingError for any other file."""
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        names = [RENAMED.get(name, name) for name in table.fieldnames or ()]
        table.fieldnames = names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        return [_parse_epoch(row) for row in table]
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise TrainingError(f"{path} is no history of epochs: {error}. Delete it to begin a new one.") from error


def format_epoch(epoch: Epoch) -> str:
    """Return one line for the terminal: 'epoch 3/10  loss 0.412  valid loss 0.388  accuracy 91.2 %  best  1.8 s'."""
    metrics = dict(epoch.metrics)
    valid = [f"valid loss {_format_number(metrics.pop('loss'))}"] if "loss" in metrics else []
    others = [f"{name} {_format_metric(name, value)}" for name, value in sorted(metrics.items())]
    best = ["best"] if epoch.best else []
    first = [f"epoch {epoch.number}/{epoch.of}", f"loss {_format_number(epoch.loss)}"]
    return "  ".join([*first, *valid, *others, *best, f"{epoch.seconds:.1f} s"])


def _parse_epoch(row: Mapping[str, str]) -> Epoch:
    return Epoch(
        phase=row["phase"],
        number=int(row["epoch"]),
        of=int(row["of"]),
        step=int(row["step"]),
        rate=float(row["rate"]),
        loss=float(row["loss"]),
        seconds=float(row["seconds"]),
        images=int(row["images"]),
        metrics={
            name.removeprefix(VALID_PREFIX): float(row[name])
            for name in row
            if name.startswith(VALID_PREFIX) and row[name]
        },
        best={"yes": True, "no": False}[row["best"]],
    )


def _format_number(value: float) -> str:
    """Format with three decimals, or three significant figures where these would be zeros."""
    return f"{value:.2e}" if 0 < abs(value) < 0.001 and math.isfinite(value) else f"{value:.3f}"


def _format_metric(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name in PERCENT_METRICS else _format_number(value)


# --- phases in words --------------------------------------------------------------------------------------------------


def describe_phase(phase: Mapping[str, Any]) -> str:
    """Describe a phase of `report.json` in words, such as 'from layer3 on, stage 8 of 10'."""
    first, stages = phase["place"] + 1, phase["stages"]
    until = phase.get("until", "head")  # reports before graft 0.1 have none
    if layers := phase.get("layers"):
        return (
            f"the last layer, {layers[0]}"
            if len(layers) == 1
            else f"the last {len(layers)} layers, {_format_layers(layers)}"
        )
    if phase["cut"] == "head":
        return "the head"
    if until != "head":
        last = stages - len(phase["kept_above"])
        which = f"stage {first}" if first == last else f"stages {first} to {last}"
        return f"from {phase['cut']} up to {until}, {which} of {stages}{SCOPE_TEXTS[phase['only']]}"
    where = f"from {phase['cut']} on, stage {first} of {stages}" if phase["place"] else "everything"
    return where + SCOPE_TEXTS[phase["only"]]


def _format_layers(layers: list[str]) -> str:
    """Join the names, or name only the first of more than four."""
    return ", ".join(layers) if len(layers) <= 4 else f"from {layers[0]} on"
