"""Feature maps of a folder of images, for a detector or a segmentation of your own: streamed into one file."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.graph import BATCH, MAP
from graft.backbones.stages import chosen_of
from graft.data.dataset import Dataset
from graft.data.read.source import read_source
from graft.errors import DataError, OutputError, UsageError
from graft.jobs import outputs
from graft.model import pictures, whole
from graft.progress import Watch, unwatched

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
    shapes = _shapes(frozen, chosen_of(at, [stage.name for stage in frozen.graph.stages]))
    try:
        with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            files = {name: Path(folder) / str(place) for place, name in enumerate(shapes)}
            good, faults = _streamed(frozen, data, files, watch)
            _packed(output, shapes, files, data.take(np.array(good, np.intp)))
    except OSError as error:
        reason = whole.reason(error)
        raise OutputError(f"{output} cannot be written: {reason}. Nothing is left behind.") from error
    return Written(shapes, len(good), data.named(faults))


def _shapes(frozen: Backbone, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """(channels, height, width) of each stage's map, in the order of a forward pass. UsageError for one without."""
    known = frozen.graph.shapes
    if without := [stage for stage in frozen.graph.stages if stage.name in names and f"{MAP}{stage.name}" not in known]:
        having = ", ".join(stage.name for stage in frozen.graph.stages if f"{MAP}{stage.name}" in known)
        raise UsageError(
            f"The stage {without[0].name!r} of {frozen.name} gives no feature map but {list(without[0].shape)} numbers "
            f"for an image. Stages with a map: {having or 'none'}."
        )
    return {name: known[f"{MAP}{name}"] for name in names}


def _streamed(
    frozen: Backbone, data: Dataset, files: Mapping[str, Path], watch: Watch
) -> tuple[list[int], dict[int, str]]:
    """The maps of all good images, one after the other in a file for each stage; the good rows, and the faults."""
    good, faults = list[int](), dict[int, str]()
    running = frozen.graph.running

    def readable() -> Iterator[NDArray[np.uint8]]:
        for picture in pictures.each(data, partial(pictures.prepared, frozen.preprocess), watch):
            if picture.made is None:
                faults[picture.row] = picture.fault
            else:
                good.append(picture.row)
                yield picture.made

    with ExitStack() as stack:
        open_files = {name: stack.enter_context(path.open("wb")) for name, path in files.items()}
        prepared = readable()
        while batch := list(islice(prepared, BATCH)):
            found = running.run(np.stack(batch), [f"{MAP}{name}" for name in files])
            for name, part in zip(files, found, strict=True):
                open_files[name].write(np.ascontiguousarray(part, "<f4").tobytes())
    if not good:
        raise DataError(
            f"Not one image can be used, the first because: {next(iter(faults.values()), 'none is there')}."
        )
    return good, faults


def _packed(output: Path, shapes: Mapping[str, tuple[int, ...]], files: Mapping[str, Path], good: Dataset) -> None:
    """The .npz: an array for each stage, copied from its file, and the table."""
    labels = {"names": np.array(good.names(), str), "labels": good.labels, "classes": np.array(good.classes, str)}
    with whole.file(output) as file, zipfile.ZipFile(file, "w") as archive:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name, path in files.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(good), *shapes[name])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member, path.open("rb") as raw:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(raw, member, PIECE)
        for name in TABLE:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, labels[name], allow_pickle=False)
