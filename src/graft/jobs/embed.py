"""Export features and feature maps of a data set: arrays in an .npz file, or a Parquet table."""

from __future__ import annotations

import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from graft import atomic, extras
from graft.backbones import catalog
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import build_probe_features, parse_stages
from graft.backbones.graph import BATCH, MAP
from graft.backbones.weights import resolve_weights_file
from graft.data.dataset import Dataset, Labels, label_names
from graft.data.readers.source import read_source
from graft.errors import DataError, OutputError, UsageError
from graft.features import embed as training
from graft.jobs import outputs, predict
from graft.progress import ProgressWrapper, no_progress

COLUMNS = ("name", "digest", "label", "features")  # of a Parquet table
SUFFIX = ".npz"
COPY_BYTES = 2**20  # bytes copied at once
TABLE_ARRAYS = ("names", "labels", "classes")  # the other arrays in the file


@dataclass(frozen=True)
class FeatureTable:
    """Features [n, d] of the images `names`, with labels [n] into `classes`, or multilabel as a 0/1 matrix.

    `digests` [n, 16] are hashes of the images' contents; `faults` maps the names of images left out to the reason;
    `computed` counts the images that were not in the cache; `paths` are the files where each image is one, else names.
    """

    features: NDArray[np.float32]
    names: list[str]
    labels: Labels
    classes: tuple[str, ...]
    faults: dict[str, str]
    computed: int
    digests: NDArray[np.uint8]
    paths: list[str]

    def __repr__(self) -> str:
        rows, width = self.features.shape
        return f"<Table of {rows:,} x {width:,} features: {len(self.classes):,} classes, {len(self.faults):,} faults>"

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame with a row for each image: `file`, `label`, and `feature_0` and so on.

        Raises UsageError where pandas is not installed.
        """
        pandas = extras.import_optional("pandas", "FeatureTable.to_dataframe")
        labels = pandas.Series(label_names(self.labels, self.classes), dtype=object)
        features = pandas.DataFrame(self.features).add_prefix("feature_")
        return pandas.concat([pandas.DataFrame({"file": self.paths, "label": labels}), features], axis=1)

    def summary(self) -> dict[str, Any]:
        """Return shape, count and faults, without the features, for JSON."""
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
    watch: ProgressWrapper = no_progress,
) -> FeatureTable:
    """Compute the features of a data set with a frozen backbone: of the last layer, or of all layers pooled.

    With `boxes` each object that the data set marks is an image. Features are cached: a second call reads them. Raises
    GraftError as `fit` does.

    >>> import graft
    >>> graft.embed("photos/").features.shape  # doctest: +SKIP
    (3670, 1280)
    """
    data = read_source(source, columns=columns, boxes=boxes, watch=watch)
    frozen = build_probe_features(load_backbone(backbone, resolve_weights_file(weights), offline))
    embedded = training.embed(frozen, data, watch=watch)
    features = embedded[np.arange(len(embedded))]
    return FeatureTable(
        features=features if all_layers else features[:, -frozen.widths[-1] :],
        names=[data.name(int(row)) for row in embedded.rows],
        labels=data.labels[embedded.rows],
        classes=data.classes,
        faults=data.named(embedded.faults),
        computed=embedded.computed_count,
        digests=embedded.digests,
        paths=data.take(embedded.rows).paths(),
    )


def check_embed(path: Path, *, force: bool) -> None:
    """Check that `write` may write there, and that Parquet has its package, before any work is done."""
    if path.suffix.lower() == predict.PARQUET_SUFFIX:
        predict.check_parquet()
        outputs.check_output(path, _is_parquet_of_ours, force=force)
    else:
        outputs.check_output(path, zipfile.is_zipfile, force=force)  # an .npz is a zip file


def write(table: FeatureTable, path: Path) -> None:
    """Save atomically as .npz (features, labels, names, classes), or as .parquet, see `_write_parquet`."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as file:
            if path.suffix.lower() == predict.PARQUET_SUFFIX:
                _write_parquet(table, file)
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


def _write_parquet(table: FeatureTable, file: BinaryIO) -> None:
    """Write COLUMNS: name, digest in hexadecimal, label (multilabel: a list; unknown: null), a list of float32."""
    arrow = predict.import_pyarrow()
    label_cells, width = label_names(table.labels, table.classes), table.features.shape[1]
    multilabel = table.labels.ndim == 2
    kinds = [arrow.string(), arrow.string(), arrow.list_(arrow.string()) if multilabel else arrow.string()]
    schema = arrow.schema(list(zip(COLUMNS, [*kinds, arrow.list_(arrow.float32(), width)], strict=True)))
    step = max(1, predict.MAX_CELLS // width)
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, max(len(table.names), 1), step):
            rows = slice(start, start + step)
            features = arrow.array(table.features[rows].ravel(), arrow.float32())
            digests = [digest.tobytes().hex() for digest in table.digests[rows]]
            texts = (table.names[rows], digests, label_cells[rows])
            cells = [arrow.array(cell, kind) for cell, kind in zip(texts, kinds, strict=True)]
            cells.append(arrow.FixedSizeListArray.from_arrays(features, width))
            writer.write_table(arrow.Table.from_arrays(cells, schema=schema))


def _is_parquet_of_ours(path: Path) -> bool:
    """Whether a file is a Parquet table of features."""
    arrow = predict.import_pyarrow()
    try:
        return tuple(arrow.parquet.read_schema(path).names) == COLUMNS
    except arrow.ArrowInvalid:
        return False


# --- feature maps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureMapResult:
    """Result of `write_feature_maps`: (channels, height, width) of each stage, image count, faults of the others."""

    shapes: dict[str, tuple[int, ...]]
    images: int
    faults: dict[str, str]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in self.shapes.items())
        return f"<Feature maps of {self.images:,} images: {shapes}, {len(self.faults):,} faults>"


def check_maps(path: Path, *, force: bool) -> None:
    """Check that `write_feature_maps` may write there, before any work is done. Raises UsageError and OutputError."""
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"Feature maps are written as {SUFFIX}, one array for each stage. Got {path}.")
    outputs.check_output(path, zipfile.is_zipfile, force=force)


def write_feature_maps(
    source: Any,
    output: str | Path,
    at: str,
    *,
    backbone: str = catalog.DEFAULT,
    weights: str | Path | None = None,
    offline: bool = False,
    columns: str = "",
    force: bool = False,
    watch: ProgressWrapper = no_progress,
) -> FeatureMapResult:
    """Write feature maps float32 [n, channels, height, width] to an .npz, one array per stage, by its name.

    `at` are stages joined by '+', by name, index or share of the chain: see `graft stages`. The file also has `names`,
    `labels` and `classes`. At most one batch of maps is in memory; maps are not cached. During the run the disk holds
    them twice. Raises GraftError as `fit` does, and UsageError for a stage without a map.
    """
    output = Path(output)
    check_maps(output, force=force)
    data = read_source(source, columns=columns, watch=watch)
    frozen = load_backbone(backbone, Path(weights) if weights else None, offline)
    shapes = _shapes(frozen, parse_stages(at, [stage.name for stage in frozen.graph.stages]))
    try:
        with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            files = {name: Path(folder) / str(place) for place, name in enumerate(shapes)}
            good, faults = _stream_maps(frozen, data, files, watch)
            _pack_archive(output, shapes, files, data.take(np.array(good, np.intp)))
    except OSError as error:
        reason = atomic.describe_error(error)
        raise OutputError(f"{output} cannot be written: {reason}. Nothing is left behind.") from error
    return FeatureMapResult(shapes, len(good), data.named(faults))


def _shapes(frozen: Backbone, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return (channels, height, width) of each stage's map, in forward order. UsageError for a stage without one."""
    known = frozen.graph.shapes
    if without := [stage for stage in frozen.graph.stages if stage.name in names and f"{MAP}{stage.name}" not in known]:
        having = ", ".join(stage.name for stage in frozen.graph.stages if f"{MAP}{stage.name}" in known)
        raise UsageError(
            f"The stage {without[0].name!r} of {frozen.name} gives no feature map but {list(without[0].shape)} numbers "
            f"for an image. Stages with a map: {having or 'none'}."
        )
    return {name: known[f"{MAP}{name}"] for name in names}


def _stream_maps(
    frozen: Backbone, data: Dataset, files: Mapping[str, Path], watch: ProgressWrapper
) -> tuple[list[int], dict[int, str]]:
    """Append the maps of all readable images to a file per stage; return the rows of these, and the faults."""
    good, faults = list[int](), dict[int, str]()
    running = frozen.graph.runner

    def readable() -> Iterator[NDArray[np.uint8]]:
        for image in training.load_each(data, partial(training.prepare_image, frozen.preprocess), watch):
            if image.value is None:
                faults[image.row] = image.fault
            else:
                good.append(image.row)
                yield image.value

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


def _pack_archive(
    output: Path, shapes: Mapping[str, tuple[int, ...]], files: Mapping[str, Path], good: Dataset
) -> None:
    """Write the .npz: an array per stage, copied from its file, and the table."""
    labels = {"names": np.array(good.names(), str), "labels": good.labels, "classes": np.array(good.classes, str)}
    with atomic.atomic_file(output) as file, zipfile.ZipFile(file, "w") as archive:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name, path in files.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(good), *shapes[name])}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member, path.open("rb") as raw:
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(raw, member, COPY_BYTES)
        for name in TABLE_ARRAYS:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, labels[name], allow_pickle=False)
