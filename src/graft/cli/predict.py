"""Command `predict`, and the printing of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli import format
from graft.cli.format import print_cautions
from graft.cli.options import (
    AsJson,
    Coverage,
    Device,
    Force,
    Model,
    Quiet,
    UnknownRate,
    choose_progress,
    print_result,
    report_errors,
    select_device,
    show_loading,
)
from graft.device import AUTO
from graft.errors import UsageError
from graft_runtime.formatting import format_answer as answer_of
from graft_runtime.terminal import say

UNKNOWN_RATE = 0.05  # graft_runtime.decide.UNKNOWN_RATE, which costs an import of torch; a test compares


def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--csv", help="Write the answers to this file, CSV or .parquet, as they come."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with answers that were not finished.")] = False,
    top: Annotated[int, typer.Option(min=0, show_default="all", help="So many likeliest classes in the file.")] = 0,
    coverage: Coverage = None,
    unknown: UnknownRate = UNKNOWN_RATE,
    device: Device = AUTO,
    no_unknown: Annotated[bool, typer.Option("--no-unknown", help="Never answer 'unknown'.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what images show."""
    with report_errors("predict to a file" if output else "predict"):
        from graft.cli import preflight

        if (resume or top) and not output:
            raise UsageError("--resume and --top belong to a file of answers: name one with --output.")
        rate, watch = 0.0 if no_unknown else unknown, choose_progress(quiet)
        preflight.check_rates(coverage, rate)
        preflight.check_model(model)
        preflight.check_images(images)
        select_device(device, model)
        with show_loading():
            from graft.jobs import predict as job
            from graft_runtime import table

        if output:
            job.check(output, resume=resume, force=force)
            asked = table.PredictOptions(coverage, rate, top)
            written = asdict(job.write(str(model), images, output, asked, resume=resume, force=force, watch=watch))
            print_result(written, as_json, print_written)
            faulty = written["faults"] == written["answers"]
        else:
            predictions, caveats = job.predict_with_warnings(
                str(model), images, coverage=coverage, unknown=rate, watch=watch
            )
            format.print_cautions(caveats)
            plain = [prediction.as_dict() for prediction in predictions]
            print_result(plain, as_json, print_predictions)
            faulty = all(prediction.fault for prediction in predictions)
        if faulty:
            raise typer.Exit(3)


# --- printing ---------------------------------------------------------------------------------------------------------


def print_written(found: Mapping[str, Any]) -> None:
    """Print the summary of `graft predict --output`."""
    print_cautions(found["careful"])
    before = f", {found['before']:,} of them before it was stopped" if found["before"] else ""
    say(f"{found['answers']:,} answers written to {found['output']}{before}")
    if found["faults"]:
        say(f"  left out     {found['faults']:,} images that cannot be used; the column 'fault' says why")
        for image, fault in found["examples"]:
            say(f"                 {image}: {fault}")


def print_predictions(predictions: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per image."""
    answers = [answer_of(each) for each in predictions]
    width = max(
        (len(answer) for answer, each in zip(answers, predictions, strict=True) if not each["fault"]), default=0
    )
    for answer, each in zip(answers, predictions, strict=True):
        say(f"{answer if each['fault'] else answer.ljust(width)}  {each['image']}{format.format_nearest(each)}")
