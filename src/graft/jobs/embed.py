"""Features of a folder of images, for use elsewhere: arrays in an .npz, or a Parquet table."""

from __future__ import annotations

import secrets
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.stages import probed
from graft.backbones.weights import file_of
from graft.data.dataset import Labels
from graft.data.read.source import read_source
from graft.errors import OutputError
from graft.jobs import columns as parquet
from graft.jobs import outputs
from graft.progress import Watch, unwatched
from graft.training import embed as training

COLUMNS = ("name", "digest", "label", "features")  # of a Parquet table


@dataclass(frozen=True)
class Table:
    """Features [n, d] of the pictures `names`, with labels [n] into `classes`, or several as a 0/1 matrix.

    `digests` [n, 16] name the contents of the images; `faults` names those left out.
    """

    features: NDArray[np.float32]
    names: list[str]
    labels: Labels
    classes: tuple[str, ...]
    faults: dict[str, str]
    computed: int
    digests: NDArray[np.uint8]

    def __repr__(self) -> str:
        rows, width = self.features.shape
        return f"<Table of {rows:,} x {width:,} features: {len(self.classes):,} classes, {len(self.faults):,} faults>"

    def summary(self) -> dict[str, Any]:
        """What was made, without the numbers themselves."""
        return {"shape": self.features.shape, "computed": self.computed, "faults": self.faults}


def embed(
    source: Any,
    *,
    backbone: str = catalog.DEFAULT,
    weights: str | Path | None = None,
    all_layers: bool = False,
    offline: bool = False,
    columns: str = "",
    boxes: bool = False,
    watch: Watch = unwatched,
) -> Table:
    """Run a frozen backbone over a data set and return its features: of the last layer, or of all layers pooled.

    With `boxes` each object that the data set marks is a picture.

    Cached: the second time reads instead of computing. Raises GraftError as `fit` does.
    """
    data = read_source(source, columns=columns, boxes=boxes, watch=watch)
    frozen = probed(load_backbone(backbone, file_of(weights), offline))
    seen = training.embed(frozen, data, watch=watch)
    features = seen[np.arange(len(seen))]
    return Table(
        features=features if all_layers else features[:, -frozen.widths[-1] :],
        names=[data.name(int(row)) for row in seen.rows],
        labels=data.labels[seen.rows],
        classes=data.classes,
        faults=data.named(seen.faults),
        computed=seen.computed,
        digests=seen.digests,
    )


def check(path: Path, *, force: bool) -> None:
    """Refuses a place where `write` may not write, or Parquet without its package, before any work is done."""
    if path.suffix.lower() == parquet.SUFFIX:
        parquet.check()
        outputs.check(path, _is_parquet_of_ours, force=force)
    else:
        outputs.check(path, zipfile.is_zipfile, force=force)  # an .npz is a zip file


def write(table: Table, path: Path) -> None:
    """Save as .npz (features, labels, names, classes), or as .parquet; see `_parquet`. Whole or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as file:
            if path.suffix.lower() == parquet.SUFFIX:
                _parquet(table, file)
            else:
                np.savez(
                    file,
                    features=table.features,
                    labels=table.labels,
                    names=np.array(table.names, dtype=str),
                    classes=np.array(table.classes, dtype=str),
                )
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _parquet(table: Table, file: BinaryIO) -> None:
    """Columns COLUMNS: text, digest in hexadecimal, label (several: a list; unknown: null), a list of float32."""
    arrow = parquet.pyarrow()
    said, width = described(table), table.features.shape[1]
    several = table.labels.ndim == 2
    kinds = [arrow.string(), arrow.string(), arrow.list_(arrow.string()) if several else arrow.string()]
    schema = arrow.schema(list(zip(COLUMNS, [*kinds, arrow.list_(arrow.float32(), width)], strict=True)))
    step = max(1, parquet.CELLS // width)
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, max(len(table.names), 1), step):
            rows = slice(start, start + step)
            features = arrow.array(table.features[rows].ravel(), arrow.float32())
            digests = [digest.tobytes().hex() for digest in table.digests[rows]]
            texts = (table.names[rows], digests, said[rows])
            cells = [arrow.array(cell, kind) for cell, kind in zip(texts, kinds, strict=True)]
            cells.append(arrow.FixedSizeListArray.from_arrays(features, width))
            writer.write_table(arrow.Table.from_arrays(cells, schema=schema))


def described(table: Table) -> list[Any]:
    """The label of each image by its name, None where it is unknown; where there may be several, a list."""
    if table.labels.ndim == 2:
        return [[name for name, shown in zip(table.classes, row, strict=True) if shown] for row in table.labels]
    return [table.classes[label] if label >= 0 else None for label in table.labels.tolist()]


def _is_parquet_of_ours(path: Path) -> bool:
    """Whether a file is a table of features in Parquet."""
    arrow = parquet.pyarrow()
    try:
        return tuple(arrow.parquet.read_schema(path).names) == COLUMNS
    except arrow.ArrowInvalid:
        return False
