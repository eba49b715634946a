"""Command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graft.cli.options import Columns, Force, Quiet, choose_progress, report_errors, show_loading
from graft_runtime.terminal import say


def report(
    model: Annotated[Path, typer.Argument(help="Folder of a saved classifier.")],
    photos: Annotated[Path | None, typer.Argument(help="Where its test images lie, to show them.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
    columns: Columns = "",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a classifier: one HTML file that needs nothing but a browser."""
    with report_errors("report"):
        from graft.cli import preflight

        preflight.check_model(model, allow_backbone=False)
        preflight.check_output_file(output, force=force)
        preflight.check_source(photos, columns)
        with show_loading():
            from graft.jobs.report.report import report as job

        written = job(model, output, photos, columns=columns, force=force, watch=choose_progress(quiet))
        say(f"written to {written}\n\nNext:  open it in a browser")
