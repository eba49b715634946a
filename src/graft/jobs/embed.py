"""Features of a folder of pictures, for use elsewhere: an array on disk and the names of its rows."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Labels
from graft.data.read.source import read_source
from graft.errors import OutputError
from graft.jobs import outputs
from graft.networks import catalog
from graft.networks.chain import probed
from graft.networks.fresh import file_of
from graft.networks.network import load_backbone
from graft.progress import Watch, unwatched
from graft.training import embed as training


@dataclass(frozen=True)
class Table:
    """Features [n, d] of the pictures `names`, with labels [n] into `classes`, or several as a 0/1 matrix.

    `faults` names the pictures left out.
    """

    features: NDArray[np.float32]
    names: list[str]
    labels: Labels
    classes: tuple[str, ...]
    faults: dict[str, str]
    computed: int

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
    )


def check(path: Path, *, force: bool) -> None:
    """Refuses a place where `write` may not write, before any work is done."""
    outputs.check(path, zipfile.is_zipfile, force=force)  # an .npz is a zip file


def write(table: Table, path: Path) -> None:
    """Save as .npz: features, labels, names, classes. Written whole or not at all."""
    fresh = path.with_name(f".{path.name}.part")
    try:
        with fresh.open("wb") as file:
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
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
