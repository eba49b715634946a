"""Command `export`, and the printing of its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from graft.cli.format import format_percent
from graft.cli.options import (
    AsJson,
    Force,
    Model,
    Quiet,
    choose_progress,
    complete_format,
    print_result,
    report_errors,
    show_loading,
)
from graft_runtime.terminal import say

NEXT_COMMANDS = {
    "onnx": "graft-runtime predict {} {photo}",
    "openvino": "in Python, openvino.compile_model({python}); docs/client.md shows how",
    "web": "python -m http.server -d {}\n       and open http://localhost:8000",
    "torch": "in Python, torch.export.load({python}); docs/client.md shows how",
}
ALLOWED_LOSS = 0.01  # graft.jobs.export.export.DEFAULT_ALLOWED_LOSS, which costs an import of torch; a test compares


def export(
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File (.onnx or .pt2) or, for web, folder to write; must not exist.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            "--format",
            help="onnx; openvino: the same, checked there; torch: a program; web: a folder with a page that answers in "
            "the browser. [default: by the file's ending]",
            autocompletion=complete_format,
        ),
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Photos to check the file on; those count that were not trained on.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit numbers: a smaller file, less exact.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Photos to find the ranges of int8 on. [default: others of --check]")
    ] = None,
    allow_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Share of right answers that int8 may lose.")
    ] = ALLOWED_LOSS,
    evidence: Annotated[
        Path | None,
        typer.Option(help="Photos it was trained on: names and thumbnails go into the file, to show the nearest."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a classifier as one file, or a page for browsers, that runs without graft, checked against it."""
    with report_errors("export"):
        from graft.cli import preflight

        preflight.check_export(to, output, int8=int8, without_images=check is None and calibrate is None, force=force)
        preflight.check_model(model)
        for each in (check, calibrate, evidence):
            preflight.check_source(each)
        with show_loading():
            from graft.jobs.export.export import export as job

        report = job(
            str(model),
            output,
            to=to,
            int8=int8,
            check=None if check is None else str(check),
            calibrate=None if calibrate is None else str(calibrate),
            allow_loss=allow_loss,
            evidence=None if evidence is None else str(evidence),
            force=force,
            watch=choose_progress(quiet),
        )
        print_result(report, as_json, lambda report: print_exported(report, check))


def print_exported(report: Mapping[str, Any], check: Path | None = None) -> None:
    """Print what was written, and its comparison with the classifier."""
    found = report["parity"]
    say(f"\n{report['output']}: {found['size'] / 1e6:.1f} MB, {report['classes']:,} classes, {report['precision']}\n")
    say(f"  checked      {_describe_check(found)}, in {found['runtime']}")
    ties = f" (and {found['ties']} on the border between two)" if found["ties"] else ""
    say(f"  answers      {found['changed']} changed{ties}; no probability is off by more than {found['worst']:.1e}")
    if found["loss"] is not None:
        low, high = found["interval"]
        say(f"  right        {format_percent(found['exported'])}, before {format_percent(found['trained'])}; ", end="")
        say(f"{100 * found['loss']:.1f} points lost (95 % confidence: {100 * low:.1f} to {100 * high:.1f})")
    trained, own = found["milliseconds"]
    say(f"  speed        {own:.1f} ms an image, resize and all; the classifier takes {trained:.1f} ms")
    say(f"  outputs      {', '.join(report['outputs'])}")
    if (evidence_size := report["evidence"])["images"]:
        missing = (
            f", thumbnails of {evidence_size['thumbnails']:,}"
            if evidence_size["thumbnails"] < evidence_size["images"]
            else ""
        )
        say(
            f"  evidence     {evidence_size['bytes'] / 1e6:.1f} MB: {evidence_size['images']:,} training images, ",
            end="",
        )
        say(f"which whoever gets the file can see{missing}")
    photo = quote(str(check)) if check and check.is_dir() else "photo.jpg"
    file = report["output"]
    say(f"\nNext:  {NEXT_COMMANDS[report['format']].format(quote(file), photo=photo, python=repr(file))}")


def _describe_check(found: Mapping[str, Any]) -> str:
    if found["origin"] == "made":
        return f"on {found['images']} images made for it; your own were not: name some with --check photos/"
    return f"on {found['images']:,} of your images ({found['origin']}), from their files to the answer"
