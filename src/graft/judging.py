"""The commands that tell how good a classifier is, and why it says what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graft import scores, show
from graft.device import AUTO
from graft.terminal import (
    Against,
    AsJson,
    Boxes,
    Columns,
    Device,
    Force,
    Model,
    Photos,
    Quiet,
    loading,
    placed,
    printed,
    told_of,
    watching,
)
from graft_runtime.terminal import say


def evaluate(
    model: Model,
    photos: Photos,
    against: Against = None,
    columns: Columns = "",
    boxes: Boxes = False,
    device: Device = AUTO,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a classifier on other labelled photos."""
    with told_of("evaluate"):
        from graft import preflight

        preflight.model(model)
        preflight.source(photos, columns)
        preflight.source(against)
        placed(device, model)
        with loading():
            from graft.jobs.evaluate import evaluate as job

        evaluation = job(
            str(model), photos, against=against, columns=columns, boxes=boxes, watch=watching(quiet)
        ).as_dict()
        printed(evaluation, as_json, show.evaluated)


def compare_runs(
    first: Annotated[Path, typer.Argument(help="Folder of a saved classifier.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one, tested on some of the same pictures.")],
    as_json: AsJson = False,
) -> None:
    """Say whether one classifier is better than another, by the test pictures that both answered."""
    with told_of("compare-runs"):
        from graft import preflight

        for each in (first, second):
            preflight.model(each, named=False)
        with loading():
            from graft.jobs.compare import compare_runs as job

        found = job(first, second).as_dict()
        printed(found, as_json, lambda found: scores.compared(found, str(first), str(second)))


def report(
    model: Annotated[Path, typer.Argument(help="Folder of a saved classifier.")],
    photos: Annotated[Path | None, typer.Argument(help="Where its test pictures lie, to show them.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
    columns: Columns = "",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a classifier: one HTML file that needs nothing but a browser."""
    with told_of("report"):
        from graft import preflight

        preflight.model(model, named=False)
        preflight.file(output, force=force)
        preflight.source(photos, columns)
        with loading():
            from graft.jobs.report.report import report as job

        written = job(model, output, photos, columns=columns, force=force, watch=watching(quiet))
        say(f"written to {written}\n\nNext:  open it in a browser")


def explain(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the drawings.")],
    label: Annotated[str | None, typer.Option(help="Explain this class instead of the answer.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw what in each picture speaks for its answer."""
    with told_of("explain"):
        from graft import preflight

        preflight.model(model)
        preflight.images(images)
        preflight.drawings(output)
        with loading():
            from graft.jobs.explain import explain as job

        found = job(str(model), images, output, label=label, force=force, watch=watching(quiet))
        printed(found, as_json, show.explained)
        if not any(each["drawing"] for each in found):
            raise typer.Exit(3)
