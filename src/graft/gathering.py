"""The commands for what comes before training: collect pictures, check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graft import show
from graft.errors import UsageError
from graft.terminal import (
    DEFAULT,
    Against,
    AsJson,
    Backbone,
    Boxes,
    Columns,
    Force,
    Offline,
    Photos,
    Quiet,
    Weights,
    loading,
    printed,
    told_of,
    watching,
)


def collect(
    urls: Annotated[Path, typer.Argument(help="Table (CSV, TSV) with columns url and label, or a .txt of URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the class folders and manifest.csv.")],
    label: Annotated[str, typer.Option(help="What all pictures show, for a list without labels.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Fetch so many URLs now. [default: all]")] = None,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest file, in megabytes.")] = 20,
    timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds for one file.")] = 60,
    time_limit: Annotated[float, typer.Option(min=0, help="Most minutes for this run.")] = 24 * 60,
    rate: Annotated[float, typer.Option(min=0.001, help="Most requests a second to one host.")] = 5,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also from private and local addresses: your own servers.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again for what was refused for good.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch labelled pictures from a list of URLs into class folders; the same command goes on where it was stopped."""
    with told_of("collect"):
        with loading():
            from graft.jobs.collect.collect import collect as job
            from graft.jobs.collect.limits import Limits

        limits = Limits(
            count=limit,
            total=time_limit * 60,
            size=int(max_mb * 1e6),
            whole=timeout,
            rate=rate,
            allow_private=allow_private,
        )
        report = job(urls, output, label=label, limits=limits, retry=retry, watch=watching(quiet)).summary()
        printed(report, as_json, show.collected)
        if not report["pictures"]:
            raise typer.Exit(3)


def check(
    photos: Photos,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page (.html) that shows the pictures of each finding.")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Table (.csv) for fit: without what harms. No picture is moved or deleted.")
    ] = None,
    against: Against = None,
    columns: Columns = "",
    boxes: Boxes = False,
    backbone: Backbone = DEFAULT,
    weights: Weights = None,
    offline: Offline = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without a network: near-duplicates by hash alone, no doubtful labels.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look for what is wrong with labelled photos: bad files, duplicates, leaks, labels, shortcuts."""
    with told_of("check"):
        from graft import preflight

        if output and fix and output.absolute() == fix.absolute():
            raise UsageError(f"--output and --fix cannot be the same file. Got {output}.")
        preflight.file(output, force=force)
        preflight.file(fix, force=force)
        preflight.source(photos, columns)
        preflight.source(against)
        preflight.backbone(backbone)
        preflight.weights(weights)
        with loading():
            from graft.jobs import check as job
            from graft.jobs import cleaned, gallery

        if output:
            gallery.check(output, force=force)
        if fix:
            cleaned.check(fix, force=force)
        found = job.check(
            photos,
            against=against,
            backbone=backbone,
            weights=weights,
            offline=offline,
            columns=columns,
            boxes=boxes,
            quick=quick,
            watch=watching(quiet),
        )
        report = found.as_dict()
        if output:
            found.write(output, force=force)
            report["page"] = str(output)
        if fix:
            report["list"] = {"file": str(fix), "pictures": cleaned.write(found, fix, force=force)}
        options = [*(["--against", against] if against else []), *(["--columns", columns] if columns else [])]
        options += ["--boxes"] * boxes
        printed(report, as_json, lambda report: show.checked(report, photos, options))
