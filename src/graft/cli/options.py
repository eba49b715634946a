"""Shared parts of the commands: common options, completion, hints, printing of results, errors and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from graft import device as devices
from graft import extras
from graft.cli import format
from graft.errors import GraftError, UsageError
from graft.progress import no_progress, show_progress
from graft_runtime import strict_json
from graft_runtime.terminal import escape_breaks, say

START_TIME = time.monotonic()  # of the program: `graft fit` reports the start-up time
DEFAULT = "tf_efficientnet_lite0"  # graft.backbones.catalog.DEFAULT, which costs an import of torch; a test compares


# --- completion -------------------------------------------------------------------------------------------------------
# Each function imports what it lists, none of it heavy; typer keeps the candidates that begin as the word does.


def complete_strategy() -> list[str]:
    """Return the names of strategies."""
    from graft.training.strategies import STRATEGIES

    return list(STRATEGIES)


def complete_head() -> list[str]:
    """Return the names of trained heads."""
    from graft.heads.designs import HEADS

    return list(HEADS)


def complete_backbone() -> list[str]:
    """Return the names of networks, without tags of weights."""
    from graft.backbones import catalog

    return [*catalog.ALIASES, *catalog.list_names()]


def complete_format() -> list[str]:
    """Return the formats of an export."""
    from graft.jobs.outputs import EXPORT_FORMATS

    return list(EXPORT_FORMATS)


def complete_device() -> list[str]:
    """Return the names of devices."""
    from graft.device import NAMES

    return list(NAMES)


# --- options ----------------------------------------------------------------------------------------------------------

Backbone = Annotated[
    str, typer.Option(help="Pretrained network; `graft backbones` lists them.", autocompletion=complete_backbone)
]
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
    typer.Argument(help="Folder with one folder of images for each class; a table, archive or published data set."),
]
Against = Annotated[
    str | None,
    typer.Option(help="One class against the rest: PHOTOS is a folder of the class, this holds anything else."),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where networks run: auto, cpu, cuda or mps; auto takes a GPU where there is one.",
        autocompletion=complete_device,
    ),
]
Columns = Annotated[str, typer.Option(help="Columns of a table: file=path,label=species,split=fold,group=patient.")]
Boxes = Annotated[bool, typer.Option("--boxes", help="Each object that VOC or COCO marks is an image.")]
Coverage = Annotated[
    float | None, typer.Option(help="Sets of classes that hold the true one for this share of images, as 0.9.")
]
UnknownRate = Annotated[
    float, typer.Option(help="Share of images of known classes that may be called unknown; 0 for none.")
]
Model = Annotated[
    Path, typer.Argument(help="Folder of a saved classifier, or a pretrained network by name: its own classes.")
]


# --- commands ---------------------------------------------------------------------------------------------------------


class Commands(TyperGroup):
    """Group of commands that lists each with its whole sentence in `--help`: typer would truncate it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, (self.commands[name].help or "").split("\n\n")[0]) for name in self.commands])


def select_device(device: str, model: Path | None = None) -> None:
    """Select the device. Raises UsageError for an unavailable one; GPUs are found with PyTorch, which loads slowly."""
    with show_loading() if device in (devices.CUDA, devices.MPS) else nullcontext():
        devices.use(device, model)


def choose_progress(quiet: bool) -> Any:
    return no_progress if quiet else show_progress


def print_result(value: Any, as_json: bool, otherwise: Callable[[Any], None]) -> None:
    """Print a result as JSON, or with `otherwise`, where line breaks in names are escaped."""
    if as_json:
        say(strict_json.dumps(value, indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))
    else:
        otherwise(escape_breaks(value))


@contextmanager
def show_loading() -> Iterator[None]:
    """Show on a terminal that a job is being imported, which may take seconds with PyTorch."""
    live = sys.stderr.isatty()
    if live:
        say("loading …", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if live:
            say(" " * 9, end="\r", file=sys.stderr, flush=True)


def exit_on_second_interrupt() -> None:
    """Let the first Ctrl-C clean up, and a second one meanwhile end the program at once."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else another program handles or ignores it
        signal.signal(signal.SIGINT, interrupt)


@contextmanager
def report_errors(job: str) -> Iterator[None]:
    """Print a GraftError or a missing optional package as one message, with its exit code; on Ctrl-C what is kept."""
    try:
        yield
        sys.stdout.flush()
    except GraftError as error:
        format.print_error(error)
        raise typer.Exit(error.exit_code) from error
    except ModuleNotFoundError as error:  # an optional package that a job imports
        package = (error.name or "").partition(".")[0]
        if package not in extras.EXTRAS:
            raise
        missing = UsageError(
            extras.format_missing_message(package, f"`graft {job.partition(' ')[0]}` as it was asked for")
        )
        format.print_error(missing)
        raise typer.Exit(missing.exit_code) from error
    except KeyboardInterrupt as error:
        format.print_stopped(job)
        raise typer.Exit(130) from error
    except BrokenPipeError as error:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from error
    except OSError as error:  # such as standard output on a full disk
        format.print_error(error)
        raise typer.Exit(6) from error


# --- hints for an unknown option --------------------------------------------------------------------------------------

SYNONYMS = {  # names of options in other programs
    **dict.fromkeys(("lr", "learning_rate", "lr0"), "rate"),
    **dict.fromkeys(("bs", "batch_size"), "batch"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("model", "network", "arch", "architecture"), "backbone"),
    **dict.fromkeys(("out", "out_dir", "output_dir", "save"), "output"),
}
ClickUsageError: Any = typer.BadParameter.__bases__[
    0
]  # UsageError of the click that typer uses, perhaps a vendored one


class HintingCommand(TyperCommand):
    """Command `fit`, whose error for an unknown option suggests words of --recipe, --strategy and --head as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except ClickUsageError as error:
            option = getattr(error, "option_name", "")
            own = [name for each in self.params for name in (*each.opts, *each.secondary_opts)]
            if option and option not in own:  # else the option exists and lacks its value
                error.message, error.possibilities = suggest_option(option, given, own), None
            raise


def suggest_option(option: str, given: Sequence[str], own: Sequence[str]) -> str:
    """Return the error message for an unknown option, with the nearest known one; `own` are the command's options."""
    word = option.lstrip("-").replace("-", "_")
    inside = _nested_options(_option_value(given, "--strategy", "-s"), _option_value(given, "--head"))
    known = {name.lstrip("-").replace("-", "_"): name for name in own}
    same = SYNONYMS.get(word, word)
    near = [same] if same in known or same in inside else get_close_matches(word, [*known, *inside], n=1)
    if not near:
        return f"No such option: {option}. `graft fit --help` lists all."
    meant = near[0]
    if meant in known:
        return f"No such option: {option}. Did you mean {known[meant]}?"
    return f"No such option: {option}. Did you mean {inside[meant]}={_option_value(given, option) or '...'}?"


def _nested_options(strategy: str, head: str) -> dict[str, str]:
    """Return the words of the recipe, strategies and heads, each with the option text that it belongs to."""
    from graft.heads.designs import HEADS
    from graft.training.recipe import Recipe
    from graft.training.strategies import STRATEGIES

    found = {}
    for option, classes, chosen in (("--head", HEADS, head), ("--strategy", STRATEGIES, strategy or "tail")):
        kinds: dict[str, Any] = {name: [each.name for each in fields(kind)] for name, kind in classes.items()}
        first = chosen.partition(":")[0]
        for name in [*(each for each in kinds if each != first), *[first] * (first in kinds)]:  # the later one counts
            found |= {word: f"{option} {name}:{word}" for word in kinds[name] if name == first or word not in found}
    return found | {each.name: f"--recipe {each.name}" for each in fields(Recipe)}


def _option_value(given: Sequence[str], *options: str) -> str:
    """Return the value of an option as typed; '' where it is not given."""
    for at, word in enumerate(given):
        name, equals, value = word.partition("=")
        if name in options:
            return value if equals else next(iter(given[at + 1 : at + 2]), "")
    return ""
