"""Commands `evaluate` and `compare-runs`, and the printing of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli import format
from graft.cli.format import print_faults
from graft.cli.options import (
    Against,
    AsJson,
    Boxes,
    Columns,
    Device,
    Model,
    Photos,
    Quiet,
    choose_progress,
    print_result,
    report_errors,
    select_device,
    show_loading,
)
from graft.device import AUTO
from graft_runtime.terminal import say


def print_comparison(found: Mapping[str, Any], first: str, second: str) -> None:
    """Print the verdict of `graft compare-runs`, with its statistics."""
    named = "mean average precision" if found["metric"] != "accuracy" else "right"
    low, high = found["interval"]
    saying = {"better": f"{first} is better than {second}", "worse": f"{first} is worse than {second}"}
    say(f"\n{saying.get(found['verdict'], f'{first} and {second} are not distinguishable')}: ", end="")
    say(f"{found['first']:.1%} against {found['second']:.1%} {named} on the same {found['shared']:,} images\n")
    say(f"  difference   {found['difference']:+.1%} (95 % confidence: {low:+.1%} to {high:+.1%})")
    only = f"{found['only_first']:,} images only by {first}, {found['only_second']:,} only by {second}"
    chance = "" if found["p"] is None else f"; equals split so in {found['p']:.1%} of cases (McNemar)"
    say(f"  answered     {only}{chance}")
    if found["log_loss"] is not None:
        low, high = found["log_loss_interval"]
        say(f"  log-loss     {found['log_loss']:+.3f} ({low:+.3f} to {high:+.3f}); less is better")
    say(f"  test parts   {found['tested'][0]:,} and {found['tested'][1]:,} images")
    for name, other, count in ((first, second, found["trained_on"][0]), (second, first, found["trained_on"][1])):
        if count:
            say(f"  careful      {name} was trained on {count:,} of the test images of {other}")
    if found["other"]:
        say(f"  careful      {found['other']:,} shared images have other labels in one than in the other: left out")


def print_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Print the score of `graft evaluate`."""
    format.print_score(evaluation, "images")
    print_faults(evaluation["faults"])


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
    with report_errors("evaluate"):
        from graft.cli import preflight

        preflight.check_model(model)
        preflight.check_source(photos, columns)
        preflight.check_source(against)
        select_device(device, model)
        with show_loading():
            from graft.jobs.evaluate import evaluate as job

        evaluation = job(
            str(model), photos, against=against, columns=columns, boxes=boxes, watch=choose_progress(quiet)
        ).as_dict()
        print_result(evaluation, as_json, print_evaluation)


def compare_runs(
    first: Annotated[Path, typer.Argument(help="Folder of a saved classifier.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one, tested on some of the same images.")],
    as_json: AsJson = False,
) -> None:
    """Say whether one classifier is better than another, by the test images that both answered."""
    with report_errors("compare-runs"):
        from graft.cli import preflight

        for each in (first, second):
            preflight.check_model(each, allow_backbone=False)
        with show_loading():
            from graft.jobs.evaluate import compare_runs as job

        found = job(first, second).as_dict()
        print_result(found, as_json, lambda found: print_comparison(found, str(first), str(second)))
