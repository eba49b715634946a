"""Measure every network of the catalogue: parameters and multiply-adds, into src/graft/networks/catalog.csv.

    python bench/catalog.py             # all networks that the table does not have yet for the installed versions
    python bench/catalog.py 'resnet*'   # only these

Networks are built on torch's meta device: shapes without numbers, so even a giant one takes a second and no memory.
One multiply-add = two operations of torch.utils.flop_counter. One that cannot be built or run so is left empty, and
tried again next time. Rows are written as they come, so that a run that was killed goes on where it stopped.
All 1370 took 6 minutes on one core of a shared machine (November 2026).
"""

from __future__ import annotations

import csv
import sys
import time

import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.catalog import TABLE, Entry, build, entries

INSTALLED = f"timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}"
FIRST_LINE = f"# Measured by bench/catalog.py with {INSTALLED}"
COLUMNS = ("name", "parameters", "gmac", "size")
Row = tuple[str, str, str, str]


def main(pattern: str = "*") -> None:
    """Fill the table with the networks whose name matches."""
    rows = read()
    for entry in entries(pattern):
        if entry.name in rows:
            continue
        started = time.perf_counter()
        parameters, gmac = measure(entry)
        rows[entry.name] = (entry.name, parameters, gmac, str(entry.size))
        write(rows)
        print(f"{time.perf_counter() - started:6.1f} s  {' '.join(rows[entry.name])}", flush=True)


def measure(entry: Entry) -> tuple[str, str]:
    """Parameters and 10^9 multiply-adds for one picture, as text; empty where the meta device does not do."""
    try:
        with torch.device("meta"), torch.inference_mode():
            network = build(entry).requires_grad_(False)  # the counter stumbles over TNT otherwise
            counter = FlopCounterMode(display=False)
            with counter:
                network(torch.empty(1, 3, entry.size, entry.size))
    except Exception as fault:  # whatever one of 1300 architectures finds wrong, the others are still to be measured
        print(f"{entry.name}: {type(fault).__name__}: {str(fault)[:200]}", file=sys.stderr, flush=True)
        return "", ""
    parameters = sum(each.numel() for each in network.parameters())
    return str(parameters), f"{counter.get_total_flops() / 2e9:.4g}"


def read() -> dict[str, Row]:
    """The rows so far, if they were measured with the installed versions."""
    if not TABLE.exists() or TABLE.read_text(encoding="utf-8").partition("\n")[0] != FIRST_LINE:
        return {}
    with TABLE.open(newline="", encoding="utf-8") as lines:
        next(lines)
        _, *rows = csv.reader(lines)
        return {name: (name, parameters, gmac, size) for name, parameters, gmac, size in rows if parameters}


def write(rows: dict[str, Row]) -> None:
    """The table sorted by name, replaced at once: a reader never sees half of it."""
    part = TABLE.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as out:
        print(FIRST_LINE, file=out)
        csv.writer(out, lineterminator="\n").writerows([COLUMNS, *(rows[name] for name in sorted(rows))])
    part.replace(TABLE)


if __name__ == "__main__":
    main(*sys.argv[1:])
