"""Command `embed`, and the printing of its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli.format import print_faults
from graft.cli.options import (
    DEFAULT,
    Backbone,
    Boxes,
    Columns,
    Device,
    Force,
    Offline,
    Photos,
    Quiet,
    Weights,
    choose_progress,
    report_errors,
    select_device,
    show_loading,
)
from graft.device import AUTO
from graft.errors import UsageError
from graft_runtime.terminal import escape_breaks, say


def print_embedded(table: Mapping[str, Any], output: Path) -> None:
    """Print the summary of `graft embed`."""
    rows, width = table["shape"]
    say(f"{rows:,} x {width:,} features written to {output} ({table['computed']:,} computed, the rest from the cache)")
    print_faults(table["faults"])


def print_maps(written: Mapping[str, Any], output: Path) -> None:
    """Print the summary of `graft embed --maps`."""
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in written["shapes"].items())
    say(f"{written['images']:,} images x {shapes} written to {output}")
    print_faults(written["faults"])


def embed(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File (.npz, .parquet) for the features; must not exist.")
    ],
    backbone: Backbone = DEFAULT,
    weights: Weights = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Features of all layers, pooled.")] = False,
    maps: Annotated[
        str | None, typer.Option(help="Feature maps [c, h, w] of these stages instead: STAGE+STAGE; see graft stages.")
    ] = None,
    offline: Offline = False,
    columns: Columns = "",
    boxes: Boxes = False,
    device: Device = AUTO,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Save the features of each photo, the numbers that a pretrained network sees in it, for your own use."""
    with report_errors("embed"):
        from graft.cli import preflight

        if maps is not None and (all_layers or boxes):
            raise UsageError("--maps names the stages of whole images: leave --all-layers and --boxes out.")
        preflight.check_output_file(output, force=force)
        preflight.check_source(photos, columns)
        preflight.check_backbone(backbone)
        preflight.check_weights(weights)
        select_device(device)
        with show_loading():
            from graft.jobs import embed as job

        if maps is not None:
            written = job.write_feature_maps(
                photos,
                output,
                maps,
                backbone=backbone,
                weights=weights,
                offline=offline,
                columns=columns,
                force=force,
                watch=choose_progress(quiet),
            )
            return print_maps(escape_breaks(asdict(written)), output)
        job.check_embed(output, force=force)
        table = job.embed(
            photos,
            backbone=backbone,
            weights=weights,
            all_layers=all_layers,
            offline=offline,
            columns=columns,
            boxes=boxes,
            watch=choose_progress(quiet),
        )
        job.write(table, output)
        print_embedded(escape_breaks(table.summary()), output)
