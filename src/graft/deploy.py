"""The commands by which a classifier leaves the lab, and what they print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from graft.scores import percent
from graft.terminal import AsJson, Force, Model, Quiet, loading, printed, told_of, watching
from graft_runtime.terminal import say

NEXT = {
    "onnx": "graft-runtime predict {} {photo}",
    "openvino": "in Python, openvino.compile_model({python}); docs/client.md shows how",
    "web": "python -m http.server -d {}\n       and open http://localhost:8000",
    "torch": "in Python, torch.export.load({python}); docs/client.md shows how",
}
ALLOWED_LOSS = 0.01  # graft.jobs.export.export.LOSS, which costs an import of torch; a test compares


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
    with told_of("export"):
        from graft import preflight

        preflight.export(to, output, int8=int8, blind=check is None and calibrate is None, force=force)
        preflight.model(model)
        for each in (check, calibrate, evidence):
            preflight.source(each)
        with loading():
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
            watch=watching(quiet),
        )
        printed(report, as_json, lambda report: exported(report, check))


def serve(
    model: Annotated[
        Path, typer.Argument(help="File of `graft export`, folder of a classifier, or a network by name.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="GRAFT_TOKEN", help="What clients must show. [default: made, where one is needed]")
    ] = "",
    corrections: Annotated[
        Path | None, typer.Option(help="Folder that keeps pictures whose answer a user corrected, for the next fit.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Photos that the classifier was trained on, to show the nearest of them.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP, with a web page: drop pictures there, or ask from a program."""
    with told_of("serve"):
        from graft import preflight

        preflight.model(model)
        preflight.source(evidence)
        with loading():
            from graft.jobs.serve import serve as job
        from graft_runtime.serve.server import welcome

        job(
            str(model),
            host=host,
            port=port,
            token=token,
            corrections=corrections,
            evidence=None if evidence is None else str(evidence),
            started=lambda address: say(welcome(model, address, corrections), flush=True),
            watch=watching(quiet),
        )


def exported(report: Mapping[str, Any], check: Path | None = None) -> None:
    """What was written, and how it compares."""
    found = report["parity"]
    say(f"\n{report['output']}: {found['size'] / 1e6:.1f} MB, {report['classes']:,} classes, {report['precision']}\n")
    say(f"  checked      {_checked(found)}, in {found['runtime']}")
    ties = f" (and {found['ties']} on the border between two)" if found["ties"] else ""
    say(f"  answers      {found['changed']} changed{ties}; no probability is off by more than {found['worst']:.1e}")
    if found["loss"] is not None:
        low, high = found["interval"]
        say(f"  right        {percent(found['exported'])}, before {percent(found['trained'])}; ", end="")
        say(f"{100 * found['loss']:.1f} points lost (95 % confidence: {100 * low:.1f} to {100 * high:.1f})")
    trained, own = found["milliseconds"]
    say(f"  speed        {own:.1f} ms a picture, {found['speed']:.1f} times as fast as PyTorch ({trained:.1f} ms)")
    say(f"  outputs      {', '.join(report['outputs'])}")
    if (held := report["evidence"])["pictures"]:
        missing = f", thumbnails of {held['thumbnails']:,}" if held["thumbnails"] < held["pictures"] else ""
        say(f"  evidence     {held['bytes'] / 1e6:.1f} MB: {held['pictures']:,} training pictures, ", end="")
        say(f"which whoever gets the file can see{missing}")
    photo = quote(str(check)) if check and check.is_dir() else "photo.jpg"
    file = report["output"]
    say(f"\nNext:  {NEXT[report['format']].format(quote(file), photo=photo, python=repr(file))}")


def _checked(found: Mapping[str, Any]) -> str:
    if found["origin"] == "made":
        return f"on {found['pictures']} pictures made for it; your own were not: name some with --check photos/"
    return f"on {found['pictures']:,} of your pictures ({found['origin']}), from their files to the answer"
