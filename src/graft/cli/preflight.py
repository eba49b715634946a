"""Checks of a command's arguments before anything heavy is loaded: paths, names, options, outputs.

Every command runs these first. What needs more than the standard library and NumPy is checked later, by the job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

from graft import spec
from graft.backbones import catalog
from graft.errors import DataError, ModelError, OutputError, UsageError, WeightsError
from graft.jobs import outputs, runs
from graft.training.plan import RANDOM, Plan, PlanChanges
from graft_runtime.card import COVERAGES

CARD = "model.json"  # of a saved classifier
PATTERN = re.compile(r"[*?\[{]")  # in a source of several files, such as shards-{000..009}.tar


def check_source(path: str | Path | None, columns: str = "") -> None:
    """Check a source of labelled images. Raises DataError where nothing has this name, UsageError for bad columns."""
    if path is not None and not PATTERN.search(str(path)) and not os.path.lexists(path):
        raise DataError(f"There is no folder or file {path}.")
    if columns:
        from graft.data.readers.columns import Columns  # imported here, as it needs NumPy and other checks do not
        from graft.data.readers.source import read_source

        Columns.from_text(columns)
        read_source(path, (), columns)  # with (), a single class is not an error


def check_images(paths: Iterable[str | Path]) -> None:
    """Check images to predict. Raises DataError for a path that does not exist."""
    for path in paths:
        if not Path(path).exists():
            raise DataError(f"There is no file {path}.")


def check_model(path: str | Path, *, allow_backbone: bool = True) -> None:
    """Check a saved classifier, an exported file or, with `allow_backbone`, a network by name. Raises ModelError."""
    place = Path(path)
    if place.is_dir() and not (place / CARD).exists():
        raise ModelError(
            f"{place} is no saved classifier: it has no {CARD}. Name the folder that `graft fit --output` wrote."
        )
    if not place.exists() and not (allow_backbone and catalog.is_known(str(path))):
        near = spec.format_suggestions(str(path), catalog.list_names()) if allow_backbone else ""
        raise ModelError(
            f"{place} is no saved classifier: there is no such folder.{near} Name the folder that `graft fit --output` "
            "wrote."
        )


def check_backbone(name: str) -> None:
    """Raise UsageError for an unknown network, and for one that does not take square images."""
    catalog.find_entry(name)


def check_weights(file: str | Path | None) -> None:
    """Raise WeightsError for a file that does not exist."""
    if file is not None and str(file) != RANDOM and not Path(file).is_file():
        raise WeightsError(f"There is no weights file {file}.")


def check_output_folder(output: Path | None, *, force: bool) -> None:
    """Raise OutputError for a folder where a classifier cannot be saved, as `storage.lock_folder` does."""
    if output is None:
        return
    around = next(each for each in outputs.resolve_output(output).absolute().parents if each.exists())
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise OutputError(f"{output} cannot be written to: {around} is no folder that can be. Choose another --output.")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file, which graft did not write. Choose another folder.")
    if (output / CARD).exists() and not force:
        raise OutputError(f"{output} already holds a classifier. Use --force to replace it, or choose another folder.")


def check_output_file(output: Path | None, *, force: bool) -> None:
    """Raise OutputError for a file that cannot be written."""
    if output is not None:
        outputs.check_output(output, lambda _: True, force=force)  # the job checks whether graft wrote it


def check_drawing_folder(output: Path) -> None:
    """Raise OutputError for a folder of drawings that cannot be made or written to."""
    around = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise OutputError(f"{output} cannot be written: {around} is no folder that can be. Choose another --output.")


def check_rates(coverage: float | None, unknown: float) -> None:
    """Raise UsageError for a coverage or an unknown rate out of range."""
    if coverage is not None and not 0 < coverage <= COVERAGES[-1]:
        raise UsageError(f"A coverage is a share above 0 and up to {COVERAGES[-1]}, such as 0.9. Got {coverage:g}.")
    if not 0 <= unknown < 1:
        raise UsageError(f"The share of images that may be called unknown lies from 0 to 1. Got {unknown:g}.")


def check_plan(
    output: Path | None, like: Path | None, resume: bool, log: str, weights: str | None, **changes: Unpack[PlanChanges]
) -> Plan:
    """Return the plan of a training. Raises UsageError for an invalid one and invalid combinations, ModelError."""
    runs.check(log)
    start = Plan.read(like) if like else Plan()
    plan = start.change(weights=None if weights is None else RANDOM if weights == RANDOM else "", **changes)
    check_backbone(plan.backbone)
    check_weights(weights)
    plan.check()
    plan.check_run(bool(output), resume, log)
    return plan


def check_export(to: str | None, output: Path, *, int8: bool, without_images: bool, force: bool) -> None:
    """Raise UsageError for an invalid format, OutputError for a path that cannot be written to."""
    if outputs.choose_format(to, output, int8, without_images=without_images) == outputs.WEB:
        outputs.check_parent_folder(outputs.resolve_output(output))
    else:
        check_output_file(output, force=force)
