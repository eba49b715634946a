"""Command `fit`, and the printing of its result."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli import format
from graft.cli.format import PAGE, list_cautions, next_command, print_findings
from graft.cli.options import (
    DEFAULT,
    START_TIME,
    Against,
    AsJson,
    Boxes,
    Columns,
    Device,
    Force,
    Offline,
    Photos,
    Quiet,
    StartWeights,
    choose_progress,
    complete_backbone,
    complete_head,
    complete_strategy,
    print_result,
    report_errors,
    select_device,
    show_loading,
)
from graft.device import AUTO
from graft.model import history
from graft.model.history import Epoch, describe_phase
from graft_runtime.terminal import say

STRATEGY_NAMES = (
    "probe, tail, lp-ft, two-phase, gradual, full, scratch, lora, norm, early-features, direct"  # a test compares
)


def fit(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the classifier; must not exist, or be empty.")
    ],
    against: Against = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            "-s",
            help=f"How to transfer: {STRATEGY_NAMES}; options as in tail:cut=0.5.",
            autocompletion=complete_strategy,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Head to train: linear, mlp or conv; options as in mlp:hidden=256+128.", autocompletion=complete_head
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="How to train: epochs=10,rate=0.001,augment=strong,...")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help=f"Pretrained network. [default: {DEFAULT}]", autocompletion=complete_backbone),
    ] = None,
    weights: StartWeights = None,
    offline: Offline = False,
    seed: Annotated[
        int | None, typer.Option(help="Decides the split and all that is drawn. [default: 0]", min=0)
    ] = None,
    boxes: Boxes = False,
    like: Annotated[
        Path | None, typer.Option("--from", help="Take the plan of a saved classifier: its folder or model.json.")
    ] = None,
    columns: Columns = "",
    strict: Annotated[bool, typer.Option("--strict", help="Stop if a file that a table lists is not there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in OUTPUT.run.")] = False,
    device: Device = AUTO,
    log: Annotated[str, typer.Option(help="Where else to log: tensorboard, mlflow, or both with a comma.")] = "",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html as well.")] = True,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on labelled photos, score it on photos kept aside, and save it."""
    with report_errors("fit"):
        from graft.cli import preflight

        preflight.check_source(photos, columns)
        preflight.check_source(against)
        preflight.check_output_folder(output, force=force)
        plan = preflight.check_plan(
            *(output, like, resume, log, weights),
            strategy=strategy,
            head=head,
            recipe=recipe,
            backbone=backbone,
            seed=seed,
        )
        select_device(device)
        with show_loading():
            from graft.jobs.fit import fit as job

        started = time.monotonic() - START_TIME
        classifier = job(
            photos,
            output,
            plan,
            against=against,
            boxes=boxes,
            columns=columns,
            weights=weights,
            offline=offline,
            strict=strict,
            resume=resume,
            log=log,
            report=report,
            force=force,
            on_epoch=(lambda epoch: None) if quiet else print_epoch,
            watch=choose_progress(quiet),
        )
        seconds = {"start-up": round(started, 3)} | classifier.report["seconds"]
        made = classifier.report | {"model": str(output), "seconds": seconds}
        print_result(made, as_json, lambda made: print_fitted(made, photos, output))


# --- printing ---------------------------------------------------------------------------------------------------------


def print_fitted(report: Mapping[str, Any], photos: Path, output: Path) -> None:
    """Print the summary of `graft fit`."""
    data = report["data"]
    format.print_score(report["evaluation"], caveats=list_cautions(report))
    if "solved_again" in report:
        say(f"  trained on   {report['solved_again']:,} images of {len(report['classes'])} classes")
    elif "valid" in report:
        say(f"  trained on   {report['inner']:,} images, {report['valid']:,} more held out to choose by")
    elif data["train"]:
        say(f"  trained on   {data['train']:,} images of {len(report['classes'])} classes")
    if report.get("weights", {}).get("where") == "random":
        say(f"  weights      random, {report['weights']['origin']}: pretrained on nothing")
    _print_training(report)
    if "head" in report:
        layers = report["layers"]
        read = "last layer" if layers == ["last"] else f"{len(layers)} layers" if len(layers) > 1 else layers[0]
        fewer = f", {count} principal components" if (count := report["head"].get("pca")) else ""
        say(f"  head         {report['head']['name']}, {read}{fewer}")
    if "seconds" in report:
        say(f"  time         {_format_seconds(report['seconds'])}")
    print_findings(data)
    say(f"  saved in     {output}")
    if (output / PAGE).is_file():
        say(f"  report       {output / PAGE}")
    say(f"\nNext:  {next_command(output, photos, report['example'])}")


def print_epoch(epoch: Epoch) -> None:
    """Print one line after an epoch."""
    say(f"  {history.format_epoch(epoch)}", file=sys.stderr)


def _print_training(report: Mapping[str, Any]) -> None:
    """Print what was frozen, what was trained, and which weights were kept."""
    for phase in report.get("phases", ()):
        tuned = "tried" if "solved_again" in report else "tuned"
        say(f"  {tuned}        {describe_phase(phase)}: {phase['trained_parameters']:,} parameters ", end="")
        say(f"({phase['frozen_parameters']:,} frozen), {phase['epochs']} epoch{'s' * (phase['epochs'] > 1)}")
    if "training" in report:
        training, blend = report["training"], report["training"]["blend"]
        kept = f"epoch {training['kept']}" if not blend["mean"] else "the mean of the later epochs"
        if blend["share"] == 0:
            kept = "the solved head: training did no better on the held-out images"
        elif blend["share"] < 1:
            kept = f"{blend['share']:.0%} of {kept}, the rest the solved head"
        more = report.get("refit_epochs", 0)
        refit = f"; then {more} epoch{'s' * (more > 1)} on all {report['refit']:,} images" if more else ""
        say(f"  kept         {kept}{refit}")
        say(f"  cost         {report['forward_equivalents']:.1f} forward passes for each image")


def _format_seconds(seconds: Mapping[str, float]) -> str:
    shares = sorted(((spent, what) for what, spent in seconds.items() if spent >= 0.05), reverse=True)
    return f"{sum(seconds.values()):.1f} s ({', '.join(f'{what} {spent:.1f}' for spent, what in shares)})"
