"""The command-line program `graft-runtime`: predict, serve and inspect an exported file.

Exit codes are those of graft: 2 usage, 3 not one image could be read, 5 the file, 6 an output that cannot be written.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graft_runtime import contract, strict_json, table
from graft_runtime.decide import UNKNOWN_RATE
from graft_runtime.formatting import format_answer
from graft_runtime.prediction import Prediction
from graft_runtime.terminal import escape_breaks, say

PROGRESS_DELAY, PROGRESS_INTERVAL = (
    2.0,
    10.0,
)  # seconds before the first progress line, and between two where no terminal is attached


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command of these arguments; exits with its exit code."""
    args = _build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no Unicode
    try:
        sys.exit({"predict": _predict, "serve": _serve, "info": _info}[args.command](args))
    except contract.ModelFileError as error:
        _fail(5, str(error))
    except ValueError as error:
        _fail(2, str(error))
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(6, str(error))
    except KeyboardInterrupt:
        kept = "What was answered is kept: the same command with --resume goes on." if vars(args).get("output") else ""
        _fail(130, f"stopped. {kept}".strip())


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="graft-runtime", description="Run a classifier that `graft export` wrote.")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which it is")
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", help="say what images show")
    predict.add_argument("model", type=Path, help="file that `graft export` wrote")
    predict.add_argument("images", nargs="+", type=Path, help="images, or folders of images")
    predict.add_argument("--output", "-o", "--csv", type=Path, help="write the answers to this CSV file")
    predict.add_argument("--resume", action="store_true", help="go on with a file of answers that was not finished")
    predict.add_argument("--top", type=int, default=0, help="so many likeliest classes in the file, not all")
    predict.add_argument("--json", action="store_true", help="print the answers as JSON")
    predict.add_argument("--coverage", type=float, help="sets that hold the true class for this share of images")
    predict.add_argument(
        "--unknown", type=float, default=UNKNOWN_RATE, help="share that may be called unknown; 0 for none"
    )
    predict.add_argument("--threads", type=int, help="all cores unless given")
    predict.add_argument("--force", action="store_true", help="replace the file of answers, or start it anew")
    serve = commands.add_parser("serve", help="answer over HTTP, with a web page")
    serve.add_argument("model", type=Path, help="file that `graft export` wrote")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than this machine need a token"
    )
    serve.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    serve.add_argument(
        "--token", default=os.environ.get("GRAFT_TOKEN", ""), help="what clients must show [GRAFT_TOKEN]"
    )
    serve.add_argument("--corrections", type=Path, help="folder that keeps images whose answer a user corrected")
    serve.add_argument("--threads", type=int, help="all cores unless given")
    info = commands.add_parser("info", help="say what a file is")
    info.add_argument("model", type=Path, help="file that `graft export` wrote")
    return parser


def _predict(args: argparse.Namespace) -> int:
    from graft_runtime.predictor import load  # ONNX Runtime, which --help does not need

    if (args.resume or args.top) and not args.output:
        raise ValueError("--resume and --top belong to a file of answers: name one with --output.")
    if args.output:
        if args.output.suffix.lower() == ".parquet":
            raise ValueError("graft-runtime writes CSV. `graft predict` writes Parquet, of exported files as well.")
        table.check_destination(args.output, table.CSV, resume=args.resume, force=args.force)
    try:
        paths = list(table.list_images(args.images))
    except FileNotFoundError as error:
        _fail(3, str(error))
    model = load(args.model, threads=args.threads)
    if args.output:
        return _write_predictions(model, list(map(str, paths)), args)
    predictions = _PredictionCounter(model.stream(paths, coverage=args.coverage, unknown=args.unknown))
    if args.json:
        say(strict_json.dumps([each.as_dict() for each in predictions], indent=2))
    else:
        for each in predictions:
            say(escape_breaks(_format_line(each)))
    return 0 if predictions.good else 3


def _serve(args: argparse.Namespace) -> int:
    try:
        from graft_runtime.serve import model, server
    except ModuleNotFoundError as error:
        _fail(2, f"This needs the package {error.name}, which is not installed: pip install 'graft-runtime[serve]'")
    server.serve(
        model.Model(args.model, args.threads),
        host=args.host,
        port=args.port,
        token=args.token,
        corrections=args.corrections,
        on_start=lambda address: say(server.welcome(args.model, address, args.corrections), flush=True),
    )
    return 0


def _write_predictions(model: table.BlockPredictor, paths: Sequence[str], args: argparse.Namespace) -> int:
    options, flags = (
        table.PredictOptions(args.coverage, args.unknown, args.top),
        {"resume": args.resume, "force": args.force},
    )
    result = table.write_predictions(model, paths, args.output, options, _show_progress, table.CSV, **flags)
    for image, fault in result.examples:
        say(escape_breaks(f"  {image}: {fault}"), file=sys.stderr)
    faults = f", {result.faults:,} of them faults (why is in the table)," if result.faults else ""
    say(f"{result.answers:,} answers{faults} written to {result.output}", file=sys.stderr)
    return 0 if result.faults < result.answers else 3


def _show_progress(predictions: Iterator[Prediction], before: int, count: int) -> Iterator[Prediction]:
    """Print progress to standard error now and then: images done, images per second, seconds left."""
    began = time.monotonic()
    due, live = began + PROGRESS_DELAY, sys.stderr.isatty()
    for done, prediction in enumerate(predictions, 1):
        yield prediction
        now = time.monotonic()
        if now >= due:
            due, rate = now + (PROGRESS_DELAY if live else PROGRESS_INTERVAL), done / (now - began)
            line = f"{before + done:,} of {count:,} images, {rate:.1f}/s, {(count - before - done) / rate:.0f} s left"
            say(line, end="   \r" if live else "\n", file=sys.stderr, flush=True)
    if live and time.monotonic() >= began + PROGRESS_DELAY:
        say("", file=sys.stderr)


def _info(args: argparse.Namespace) -> int:
    try:
        model = contract.read_file(args.model)
        card, export = contract.read_description(model)
    except contract.ModelFileError as error:
        raise contract.ModelFileError(f"{args.model} is no classifier that can be used: {error}.") from error
    except OSError as error:
        raise contract.ModelFileError(f"{args.model} cannot be read: {error.strerror}.") from error
    about = {"classes": card.classes, "task": card.task, "precision": export.precision, "parity": export.parity}
    about |= {"evidence": len(contract.read_training_images(model, export))}
    say(strict_json.dumps(about | {"licences": card.licences, "provenance": card.provenance}, indent=2))
    return 0


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that escapes its messages, since they repeat the arguments."""

    def _print_message(self, message: str, file: Any = None) -> None:
        say(message, end="", file=file or sys.stderr)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        from importlib import metadata  # a tenth of a second, which no other call needs

        say(f"graft-runtime {metadata.version('graft-runtime')}")
        sys.exit(0)


class _PredictionCounter:
    """Iterate over predictions and count them: all, and those without a fault."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self.predictions, self.count, self.good = predictions, 0, 0

    def __iter__(self):
        for each in self.predictions:
            self.count += 1
            self.good += each.answer is not None
            yield each


def _format_line(each: Prediction) -> str:
    return f"{format_answer(each.as_dict())}  {each.image}"


def _fail(code: int, message: str) -> None:
    say(f"graft-runtime: {message}", file=sys.stderr)
    sys.exit(code)
