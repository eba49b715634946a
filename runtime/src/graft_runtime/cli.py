"""The program `graft-runtime`: what pictures show, by an exported file.

Exit codes are those of graft: 2 usage, 3 not one picture could be read, 5 the file, 6 an output that cannot be written.
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
from graft_runtime.decide import RATE
from graft_runtime.prediction import Prediction
from graft_runtime.screen import answer
from graft_runtime.terminal import on_one_line, say

PATIENCE, REMIND = 2.0, 10.0  # seconds before the first word about progress, and between two where nobody watches


def main(words: Sequence[str] | None = None) -> None:
    """Parse, predict, print; ends the program with its exit code."""
    given = _parser().parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no Unicode
    try:
        sys.exit({"predict": _predict, "serve": _serve, "info": _info}[given.command](given))
    except contract.ModelError as error:
        _fail(5, str(error))
    except ValueError as error:
        _fail(2, str(error))
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(6, str(error))
    except KeyboardInterrupt:
        kept = "What was answered is kept: the same command with --resume goes on." if vars(given).get("output") else ""
        _fail(130, f"stopped. {kept}".strip())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="graft-runtime", description="Run a classifier that `graft export` wrote.")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which it is")
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", help="say what pictures show")
    predict.add_argument("model", type=Path, help="file that `graft export` wrote")
    predict.add_argument("images", nargs="+", type=Path, help="pictures, or folders of pictures")
    predict.add_argument("--output", "-o", "--csv", type=Path, help="write the answers to this CSV file")
    predict.add_argument("--resume", action="store_true", help="go on with a file of answers that was not finished")
    predict.add_argument("--top", type=int, default=0, help="so many likeliest classes in the file, not all")
    predict.add_argument("--json", action="store_true", help="print the answers as JSON")
    predict.add_argument("--coverage", type=float, help="sets that hold the true class for this share of pictures")
    predict.add_argument("--unknown", type=float, default=RATE, help="share that may be called unknown; 0 for none")
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
    serve.add_argument("--corrections", type=Path, help="folder that keeps pictures whose answer a user corrected")
    serve.add_argument("--threads", type=int, help="all cores unless given")
    info = commands.add_parser("info", help="say what a file is")
    info.add_argument("model", type=Path, help="file that `graft export` wrote")
    return parser


def _predict(given: argparse.Namespace) -> int:
    from graft_runtime.predictor import load  # ONNX Runtime, which --help does not need

    if (given.resume or given.top) and not given.output:
        raise ValueError("--resume and --top belong to a file of answers: name one with --output.")
    if given.output:
        if given.output.suffix.lower() == ".parquet":
            raise ValueError("graft-runtime writes CSV. `graft predict` writes Parquet, of exported files as well.")
        table.check(given.output, table.CSV, resume=given.resume, force=given.force)
    try:
        paths = list(table.files(given.images))
    except FileNotFoundError as error:
        _fail(3, str(error))
    model = load(given.model, threads=given.threads)
    if given.output:
        return _written(model, list(map(str, paths)), given)
    told = _Counted(model.stream(paths, coverage=given.coverage, unknown=given.unknown))
    if given.json:
        say(strict_json.dumps([each.as_dict() for each in told], indent=2))
    else:
        for each in told:
            say(on_one_line(_line(each)))
    return 0 if told.good else 3


def _serve(given: argparse.Namespace) -> int:
    try:
        from graft_runtime.serve import server
    except ModuleNotFoundError as error:
        _fail(2, f"This needs the package {error.name}, which is not installed: pip install 'graft-runtime[serve]'")
    server.serve(
        server.Model(given.model, given.threads),
        host=given.host,
        port=given.port,
        token=given.token,
        corrections=given.corrections,
        started=lambda address: say(server.welcome(given.model, address, given.corrections), flush=True),
    )
    return 0


def _written(model: table.Judge, paths: Sequence[str], given: argparse.Namespace) -> int:
    asked, again = table.Asked(given.coverage, given.unknown, given.top), {"resume": given.resume, "force": given.force}
    found = table.write(model, paths, given.output, asked, _counted, table.CSV, **again)
    for picture, fault in found.examples:
        say(on_one_line(f"  {picture}: {fault}"), file=sys.stderr)
    faults = f", {found.faults:,} of them faults (why is in the table)," if found.faults else ""
    say(f"{found.answers:,} answers{faults} written to {found.output}", file=sys.stderr)
    return 0 if found.faults < found.answers else 3


def _counted(things: Iterator[Prediction], before: int, count: int) -> Iterator[Prediction]:
    """A line on standard error now and then: how many are done, how fast, how long it will take still."""
    began = time.monotonic()
    due, live = began + PATIENCE, sys.stderr.isatty()
    for done, thing in enumerate(things, 1):
        yield thing
        now = time.monotonic()
        if now >= due:
            due, rate = now + (PATIENCE if live else REMIND), done / (now - began)
            line = f"{before + done:,} of {count:,} pictures, {rate:.1f}/s, {(count - before - done) / rate:.0f} s left"
            say(line, end="   \r" if live else "\n", file=sys.stderr, flush=True)
    if live and time.monotonic() >= began + PATIENCE:
        say("", file=sys.stderr)


def _info(given: argparse.Namespace) -> int:
    try:
        model = contract.content(given.model)
        card, export = contract.read(model)
    except contract.ModelError as error:
        raise contract.ModelError(f"{given.model} is no classifier that can be used: {error}.") from error
    except OSError as error:
        raise contract.ModelError(f"{given.model} cannot be read: {error.strerror}.") from error
    about = {"classes": card.classes, "task": card.task, "precision": export.precision, "parity": export.parity}
    about |= {"evidence": len(contract.evidence(model, export))}
    say(strict_json.dumps(about | {"licences": card.licences, "provenance": card.provenance}, indent=2))
    return 0


class _Parser(argparse.ArgumentParser):
    """Repeats what it was given, in a message of what is wrong with that, as a terminal may have it."""

    def _print_message(self, message: str, file: Any = None) -> None:
        say(message, end="", file=file or sys.stderr)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        from importlib import metadata  # a tenth of a second, which no other call needs

        say(f"graft-runtime {metadata.version('graft-runtime')}")
        sys.exit(0)


class _Counted:
    """Predictions as they come, and how many of them there were."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self.predictions, self.count, self.good = predictions, 0, 0

    def __iter__(self):
        for each in self.predictions:
            self.count += 1
            self.good += each.answer is not None
            yield each


def _line(each: Prediction) -> str:
    return f"{answer(each.as_dict())}  {each.picture}"


def _fail(code: int, message: str) -> None:
    say(f"graft-runtime: {message}", file=sys.stderr)
    sys.exit(code)
