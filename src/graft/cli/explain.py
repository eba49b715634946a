"""Command `explain`, and the printing of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli.options import AsJson, Force, Model, Quiet, choose_progress, print_result, report_errors, show_loading
from graft_runtime.terminal import say


def print_explained(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the explained class and the drawing of each image."""
    words = [f"(unknown) like {each['explained']}" if each["unknown"] else each["explained"] for each in found]
    width = max(map(len, words), default=0)
    for each, word in zip(found, words, strict=True):
        if each["fault"]:
            say(f"    -    not judged, {each['fault']}  {each['image']}")
        else:
            chance = "-" if each["unknown"] else f"{each['probabilities'][each['explained']]:.1%}"
            say(f"{chance:>7}  {word:<{width}}  {each['image']}  drawn in {each['drawing']}")


def explain(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the drawings.")],
    label: Annotated[str | None, typer.Option(help="Explain this class instead of the answer.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw what in each image speaks for its answer."""
    with report_errors("explain"):
        from graft.cli import preflight

        preflight.check_model(model)
        preflight.check_images(images)
        preflight.check_drawing_folder(output)
        with show_loading():
            from graft.jobs.explain import explain as job

        found = job(str(model), images, output, label=label, force=force, watch=choose_progress(quiet))
        print_result(found, as_json, print_explained)
        if not any(each["drawing"] for each in found):
            raise typer.Exit(3)
