"""What the commands share: their common options, what they print, and how they end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from graft import device as devices
from graft import extras, show
from graft.errors import GraftError, UsageError
from graft.progress import unwatched, watched
from graft_runtime import strict_json
from graft_runtime.terminal import on_one_line, say

DEFAULT = "tf_efficientnet_lite0"  # graft.backbones.catalog.DEFAULT, which costs an import of torch; a test compares

Backbone = Annotated[str, typer.Option(help="Pretrained network; `graft backbones` lists them.")]
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="File with this network's weights, instead of the usual ones.")
]
StartWeights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="File with this network's weights; random: drawn, nothing is transferred."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a network connection.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what is there: a classifier, a file of answers or features, drawings.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Photos = Annotated[
    Path,
    typer.Argument(help="Folder with one folder of pictures for each class; a table, archive or published data set."),
]
Against = Annotated[
    str | None,
    typer.Option(help="One class against the rest: PHOTOS is a folder of the class, this holds anything else."),
]
Device = Annotated[
    str, typer.Option(help="Where networks run: auto, cpu, cuda or mps; auto takes a GPU where there is one.")
]
Columns = Annotated[str, typer.Option(help="Columns of a table: file=path,label=species,split=fold,group=patient.")]
Boxes = Annotated[bool, typer.Option("--boxes", help="Each object that VOC or COCO marks is a picture.")]
Coverage = Annotated[
    float | None, typer.Option(help="Sets of classes that hold the true one for this share of pictures, as 0.9.")
]
UnknownRate = Annotated[
    float, typer.Option(help="Share of pictures of known classes that may be called unknown; 0 for none.")
]
Model = Annotated[
    Path, typer.Argument(help="Folder of a saved classifier, or a pretrained network by name: its own classes.")
]


class Commands(TyperGroup):
    """The commands in `--help`, each with its whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, (self.commands[name].help or "").split("\n\n")[0]) for name in self.commands])


def placed(device: str, model: Path | None = None) -> None:
    """Choose where networks run. Raises UsageError for what cannot be; a GPU is looked for with PyTorch."""
    with loading() if device in (devices.CUDA, devices.MPS) else nullcontext():
        devices.use(device, model)


def watching(quiet: bool) -> Any:
    return unwatched if quiet else watched


def printed(value: Any, as_json: bool, otherwise: Callable[[Any], None]) -> None:
    """A result: as JSON, or as `otherwise` shows it, with every name in it on one line."""
    if as_json:
        say(strict_json.dumps(value, indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))
    else:
        otherwise(on_one_line(value))


@contextmanager
def loading() -> Iterator[None]:
    """Around the import of a job, which may bring PyTorch and take seconds: whoever watches is told."""
    live = sys.stderr.isatty()
    if live:
        say("loading …", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if live:
            say(" " * 9, end="\r", file=sys.stderr, flush=True)


def end_at_second_press() -> None:
    """The first Ctrl-C lets all tidy up; a second one meanwhile ends the program there and then, as a kill does."""

    def pressed(*_: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody else decides
        signal.signal(signal.SIGINT, pressed)


@contextmanager
def told_of(job: str) -> Iterator[None]:
    """A user's mistake becomes one clear message and an exit code of its own; Ctrl-C says what is kept.

    So does a package that is not installed and that only some jobs need.
    """
    try:
        yield
        sys.stdout.flush()
    except GraftError as error:
        show.failed(error)
        raise typer.Exit(error.exit_code) from error
    except ModuleNotFoundError as error:  # what a job imports, before it begins
        package = (error.name or "").partition(".")[0]
        if package not in extras.EXTRAS:
            raise
        missing = UsageError(extras.missing(package, f"`graft {job.partition(' ')[0]}` as it was asked for"))
        show.failed(missing)
        raise typer.Exit(missing.exit_code) from error
    except KeyboardInterrupt as error:
        show.stopped(job)
        raise typer.Exit(130) from error
    except BrokenPipeError as error:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from error
    except OSError as error:  # standard output on a full disk, say
        show.failed(error)
        raise typer.Exit(6) from error
