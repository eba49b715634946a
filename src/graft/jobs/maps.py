"""Feature maps of a folder of images, for a detector or a segmentation of your own: streamed into one file."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import catalog
from graft.data.dataset import Dataset
from graft.data.read.source import read_source
from graft.errors import DataError, OutputError, UsageError
from graft.jobs import outputs
from graft.model import pictures, whole
from graft.backbones import catalog
from graft.torch import engine
from graft.torch.chain import stages
from graft.networks.maps import Maps
from graft.torch.network import load_backbone
from graft.progress import Watch, unwatched
from graft.backbones.stages import named

SUFFIX = ".npz"
PIECE = 2**20  # bytes copied at once
TABLE = ("names", "labels", "classes")  # the other arrays in the file


@dataclass(frozen=True)
class Written:
    """What was written: (channels, height, width) of each stage, how many images, and the faults of the others."""

    shapes: dict[str, tuple[int, ...]]
    images: int
    faults: dict[str, str]


def check(path: Path, *, force: bool) -> None:
    """Refuses a place where `maps` may not write, before any work is done."""
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"Feature maps are written as {SUFFIX}, one array for each stage. Got {path}.")
    outputs.check(path, zipfile.is_zipfile, force=force)


def maps(
    source: Any,
    output: str | Path,
    at: str,
    *,
    backbone: str = catalog.DEFAULT,
    weights: str | Path | None = None,
    offline: bool = False,
    columns: str = "",
    force: bool = False,
    watch: Watch = unwatched,
) -> Written:
    """Write the feature maps float32 [n, channels, height, width] of stages to an .npz, an array called like each.

    `at` names stages joined by '+', by name, index or share of the chain: see `graft stages`. The file also has
    `names`, `labels` and `classes`. Never more than a batch of maps is in memory; they are not cached. While it runs,
    the disk holds the maps twice. Raises GraftError as `fit` does, and UsageError for a stage that has no map.
    """
    output = Path(output)
    check(output, force=force)
    data = read_source(source, columns=columns, watch=watch)
    frozen = load_backbone(backbone, Path(weights) if weights else None, offline)
    chain = stages(frozen)
    order = [stage.name for stage in chain]
    network = Maps(frozen, chain, [named(part, order) for part in at.split("+")])
    try:
        with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            files = {name: Path(folder) / str(place) for place, name in enumerate(network.names)}
            good, faults = _streamed(network, data, files, watch)
            _packed(output, network, files, data.take(np.array(good, np.intp)))
    except OSError as error:
        reason = whole.reason(error)
        raise OutputError(f"{output} cannot be written: {reason}. Nothing is left behind.") from error
    return Written(dict(network.shapes), len(good), data.named(faults))


def _streamed(
    network: Maps, data: Dataset, files: Mapping[str, Path], watch: Watch
) -> tuple[list[int], dict[int, str]]:
    """The maps of all good images, one after the other in a file for each stage; the good rows, and the faults."""
    good, faults = list[int](), dict[int, str]()
    run = engine.compile(network, network.preprocess.size, len(data))

    def readable() -> Iterator[NDArray[np.uint8]]:
        for picture in pictures.each(data, partial(pictures.prepared, network.preprocess), watch):
            if picture.made is None:
                faults[picture.row] = picture.fault
            else:
                good.append(picture.row)
                yield picture.made

    with ExitStack() as stack:
        open_files = {name: stack.enter_context(path.open("wb")) for name, path in files.items()}
        prepared = readable()
        while batch := list(islice(prepared, run.batch)):
            for name, part in network.divided(run(np.stack(batch))).items():
                open_files[name].write(np.ascontiguousarray(part, "<f4").tobytes())
    if not good:
        raise DataError(
            f"Not one image can be used, the first because: {next(iter(faults.values()), 'none is there')}."
        )
    return good, faults


def _packed(output: Path, network: Maps, files: Mapping[str, Path], good: Dataset) -> None:
    """The .npz: an array for each stage, copied from its file, and the table."""
    labels = {"names": np.array(good.names(), str), "labels": good.labels, "classes": np.array(good.classes, str)}
    with whole.file(output) as file, zipfile.ZipFile(file, "w") as archive:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name, path in files.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(good), *network.shapes[name])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member, path.open("rb") as raw:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(raw, member, PIECE)
        for name in TABLE:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, labels[name], allow_pickle=False)
