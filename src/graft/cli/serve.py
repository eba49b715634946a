"""Command `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graft.cli.options import Quiet, choose_progress, report_errors, show_loading
from graft_runtime.terminal import say


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
        Path | None, typer.Option(help="Folder that keeps images whose answer a user corrected, for the next fit.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Photos that the classifier was trained on, to show the nearest of them.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP, with a web page: drop images there, or ask from a program."""
    with report_errors("serve"):
        from graft.cli import preflight

        preflight.check_model(model)
        preflight.check_source(evidence)
        with show_loading():
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
            watch=choose_progress(quiet),
        )
