"""Write src/graft/backbones/catalog.csv: all that the catalogue knows of networks without building them.

    python bench/catalog.py             # the facts of all networks; measures those that were not with these versions
    python bench/catalog.py 'resnet*'   # the same, but measures only these

The facts (input, preprocessing, licence, where weights are) are those that the installed timm and torchvision state.
Parameters and multiply-adds are measured: networks are built on torch's meta device: shapes without numbers, so even a
giant one takes a second and no memory. One multiply-add = two operations of torch.utils.flop_counter. One that cannot
be built or run so is left empty, and tried again next time. Rows are written as they come, so that a run that was
killed goes on where it stopped. To measure all 1370 took 6 minutes on one core of a shared machine (November 2026).
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import astuple, fields, replace

import timm
import torch
import torchvision
from timm.models import PretrainedCfg, get_deprecated_models, get_pretrained_cfg
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones import catalog
from graft.backbones.catalog import HUB_OWNER, NOT_NEEDED, NOT_STATED, TABLE, CatalogEntry, CatalogRow, search
from graft.torch.build import SIZE, SMALL, TORCHVISION, best_torchvision_weights, build_network

INSTALLED = f"timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}"
FIRST_LINE = f"# Written by bench/catalog.py with {INSTALLED}"
Measured = tuple[str, str]  # parameters, 10^9 multiply-adds


def main(pattern: str = "*") -> None:
    """Write the facts, then fill in what the networks whose name matches cost."""
    measured = read()
    rows = {row.name: row for row in facts()}
    write(rows, measured)
    catalog._table.cache_clear()
    catalog._all_names.cache_clear()
    for entry in search(pattern):
        if entry.name in measured or "." in entry.name:
            continue
        started = time.perf_counter()
        measured[entry.name] = measure(entry)
        write(rows, measured)
        print(f"{time.perf_counter() - started:6.1f} s  {entry.name} {' '.join(measured[entry.name])}", flush=True)


def facts() -> Iterable[CatalogRow]:
    """What the libraries say of each network, and of each of its pretrained weights."""
    tagged = timm.list_pretrained()
    for name in timm.list_models():
        cfg = get_pretrained_cfg(name, allow_unregistered=False)
        assert cfg is not None
        yield CatalogRow(name, "timm", tag=cfg.tag) if f"{name}.{cfg.tag}" in tagged else _timm(name, cfg)
    for name in tagged:
        cfg = get_pretrained_cfg(name, allow_unregistered=False)
        assert cfg is not None
        yield _timm(name, cfg)
    for name, now in get_deprecated_models().items():
        yield CatalogRow(name, "timm", now=now)
    yield from (_torchvision(name, classifier) for name, classifier in TORCHVISION.items())
    plain = {"interpolation": "bilinear", "crop": "center", "mean": "0.5 0.5 0.5", "std": "0.5 0.5 0.5"}
    for name in SMALL:
        yield CatalogRow(name, "graft", size=str(SIZE), resize=str(SIZE), licence=NOT_NEEDED, **plain)


def _timm(name: str, cfg: PretrainedCfg) -> CatalogRow:
    height, width = cfg.input_size[1:]
    names = cfg.classifier or ()
    return CatalogRow(
        name,
        "timm",
        size=str(width) if height == width else f"{height}x{width}",
        resize=str(max(width, math.floor(width / cfg.crop_pct))),  # VOLO has crop_pct 1.15: it would crop air
        interpolation="bilinear" if cfg.interpolation == "bilinear" else "bicubic",
        # 'border' (six networks) fits the whole image in and pads it. We crop instead: padding shows the network
        # bars that its training never showed, and with crop_pct near 1 the crop loses nothing but the long side's ends.
        crop="squash" if cfg.crop_mode == "squash" else "center",
        mean=_words(cfg.mean),
        std=_words(cfg.std),
        classes=str(cfg.num_classes),
        classifier=names if isinstance(names, str) else " ".join(names),
        licence=NOT_STATED if cfg.license in (None, "unknown") else cfg.license,
        hub="=" if cfg.hf_hub_id == f"{HUB_OWNER}{name}" else cfg.hf_hub_id or "",
        url=cfg.url if isinstance(cfg.url, str) else "",
    )


def _torchvision(name: str, classifier: str) -> CatalogRow:
    weights = best_torchvision_weights(name)
    transforms = weights.transforms()
    return CatalogRow(
        name,
        "torchvision",
        size=str(transforms.crop_size[0]),
        resize=str(transforms.resize_size[0]),
        interpolation=transforms.interpolation.value,
        crop="center",
        mean=_words(transforms.mean),
        std=_words(transforms.std),
        classes=str(len(weights.meta["categories"])),
        classifier=classifier,
        licence=NOT_STATED,
        url=weights.url,
    )


def _words(values: Iterable[float]) -> str:
    return " ".join(map(repr, map(float, values)))


def measure(entry: CatalogEntry) -> Measured:
    """Parameters and 10^9 multiply-adds for one image, as text; empty where the meta device does not do."""
    try:
        with torch.device("meta"), torch.inference_mode():
            network = build_network(entry).requires_grad_(False)  # the counter stumbles over TNT otherwise
            counter = FlopCounterMode(display=False)
            with counter:
                network(torch.empty(1, 3, entry.size, entry.size))
    except Exception as fault:  # whatever one of 1300 architectures finds wrong, the others are still to be measured
        print(f"{entry.name}: {type(fault).__name__}: {str(fault)[:200]}", file=sys.stderr, flush=True)
        return "", ""
    parameters = sum(each.numel() for each in network.parameters())
    return str(parameters), f"{counter.get_total_flops() / 2e9:.4g}"


def read() -> dict[str, Measured]:
    """What was measured so far, if it was with the installed versions."""
    if not TABLE.exists() or not TABLE.read_text(encoding="utf-8").partition("\n")[0].endswith(f"with {INSTALLED}"):
        return {}
    with TABLE.open(newline="", encoding="utf-8") as lines:
        next(lines)
        rows = csv.DictReader(lines)
        return {row["name"]: (row["parameters"], row["gmac"]) for row in rows if row["parameters"]}


def write(rows: dict[str, CatalogRow], measured: dict[str, Measured]) -> None:
    """The table sorted by name, replaced at once: a reader never sees half of it."""
    part = TABLE.with_suffix(".part")
    nothing = ("", "")
    with part.open("w", newline="", encoding="utf-8") as out:
        print(FIRST_LINE, file=out)
        table = csv.writer(out, lineterminator="\n")
        table.writerow([field.name for field in fields(CatalogRow)])
        for name in sorted(rows):
            parameters, gmac = measured.get(name, nothing)
            table.writerow(astuple(replace(rows[name], parameters=parameters, gmac=gmac)))
    part.replace(TABLE)


if __name__ == "__main__":
    main(*sys.argv[1:])
