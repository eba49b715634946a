"""Command line `graft COMMAND`. Each command is in a module of its own, and imports its job when it runs."""

from __future__ import annotations

import io
import sys
from copy import copy
from typing import Annotated

import typer
from typer.models import CommandInfo

from graft.cli import (
    check,
    collect,
    embed,
    evaluate,
    explain,
    export,
    fit,
    format,
    networks,
    predict,
    report,
    serve,
    update,
)
from graft.cli.options import Commands, HintingCommand, exit_on_second_interrupt
from graft.errors import GraftWarning
from graft_runtime.terminal import say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: rich takes longer to load than everything else
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    cls=Commands,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        say(f"graft {metadata.version('graft-vision')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Turn labelled photos and a pretrained network into a classifier."""


app.command(cls=HintingCommand)(fit.fit)
for command in (  # in the order of `graft --help`: the daily ones first
    predict.predict,
    embed.embed,
    networks.stages,
    networks.backbones,
    collect.collect,
    check.check,
    evaluate.evaluate,
    evaluate.compare_runs,
    report.report,
    explain.explain,
    export.export,
    serve.serve,
    update.update,
):
    app.command()(command)


def _show_warning(message: Warning | str, *_where: object) -> None:
    format.print_cautions([str(message)])


def _command_name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")


def main() -> None:
    """The program `graft`."""
    if not sys.flags.dev_mode:  # warnings of libraries are for graft's developers
        import warnings

        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=GraftWarning)
        warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an old terminal shows '日' as an escape, not a traceback
    exit_on_second_interrupt()
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    program = copy(app)
    if own := [each for each in app.registered_commands if name == _command_name(each)]:
        program.registered_commands = own  # else typer builds the options of all commands
    program()


if __name__ == "__main__":
    main()
