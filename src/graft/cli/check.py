"""Command `check`, and the printing of its findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import join, quote
from typing import Annotated, Any

import typer

from graft.cli.format import MAX_CASES
from graft.cli.options import (
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
    choose_progress,
    print_result,
    report_errors,
    show_loading,
)
from graft.errors import UsageError
from graft_runtime.terminal import say

FIXABLE_KINDS = ("leak", "conflict", "copy", "unreadable")  # what a cleaned list leaves out


def print_checked(report: Mapping[str, Any], photos: Path, options: Sequence[str] = ()) -> None:
    """Print the summary of `graft check`; `options` are those that say how the photos are read."""
    usable = f"{report['usable']:,} of " if report["usable"] < report["images"] else ""
    say(f"{usable}{report['images']:,} images of {len(report['classes'])} classes in {photos}\n")
    for finding in report["findings"]:
        say(f"  {finding['severity']:<12} {finding['says']}")
        for case in finding["cases"][:MAX_CASES]:
            note = f": {case['note']}" if case["note"] else ""
            say(f"                 {' = '.join(case['images'])}{note}")
        if (more := len(finding["cases"]) - MAX_CASES) > 0:
            say(f"                 and {more:,} more")
    if not report["findings"]:
        say("  nothing found")
    if report["columns"]:
        say(f"  columns      {report['columns']}")
    if report["ignored"]:
        say(f"  ignored      {', '.join(f'{what}: {count:,}' for what, count in report['ignored'].items())}")
    if "page" in report:
        say(f"  shown in     {report['page']}")
    if "list" in report:
        say(f"  cleaned list {report['list']['file']}, {report['list']['images']:,} images; nothing was moved")
    say(f"\nNext:  {_next_step(report, photos, options)}")


def _next_step(report: Mapping[str, Any], photos: Path, options: Sequence[str]) -> str:
    """Return the command to run after a check: show the findings, then write a cleaned list, then train."""
    folder = join([str(photos), *options])
    if "list" in report:
        return f"graft fit {quote(report['list']['file'])} -o model/"
    if "page" not in report and any(finding["cases"] for finding in report["findings"]):
        return f"graft check {folder} -o check.html\n       and look at check.html in a browser"
    if any(finding["kind"] in FIXABLE_KINDS for finding in report["findings"]):
        return f"graft check {folder} --fix clean.csv"
    return f"graft fit {folder} -o model/"


def check(
    photos: Photos,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page (.html) that shows the images of each finding.")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Table (.csv) for fit: without what harms. No image is moved or deleted.")
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
    with report_errors("check"):
        from graft.cli import preflight

        if output and fix and output.absolute() == fix.absolute():
            raise UsageError(f"--output and --fix cannot be the same file. Got {output}.")
        preflight.check_output_file(output, force=force)
        preflight.check_output_file(fix, force=force)
        preflight.check_source(photos, columns)
        preflight.check_source(against)
        preflight.check_backbone(backbone)
        preflight.check_weights(weights)
        with show_loading():
            from graft.jobs.check import check as job
            from graft.jobs.check import gallery
            from graft.jobs.check.check import check_cleaned, write

        if output:
            gallery.check(output, force=force)
        if fix:
            check_cleaned(fix, force=force)
        found = job.check(
            photos,
            against=against,
            backbone=backbone,
            weights=weights,
            offline=offline,
            columns=columns,
            boxes=boxes,
            quick=quick,
            watch=choose_progress(quiet),
        )
        report = found.as_dict()
        if output:
            found.write(output, force=force)
            report["page"] = str(output)
        if fix:
            report["list"] = {"file": str(fix), "images": write(found, fix, force=force)}
        options = [*(["--against", against] if against else []), *(["--columns", columns] if columns else [])]
        options += ["--boxes"] * boxes
        print_result(report, as_json, lambda report: print_checked(report, photos, options))
