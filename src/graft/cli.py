"""The command line: parse, call one job, print. Jobs are imported when they run, so that --help is quick."""

from __future__ import annotations

import io
import sys
import time
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer.models import CommandInfo

from graft import changing, deploy, gathering, judging, show
from graft.device import AUTO
from graft.errors import Remark, UsageError
from graft.hints import Hinted
from graft.terminal import (
    DEFAULT,
    Against,
    AsJson,
    Backbone,
    Boxes,
    Columns,
    Commands,
    Coverage,
    Device,
    Force,
    Model,
    Offline,
    Photos,
    Quiet,
    StartWeights,
    UnknownRate,
    Weights,
    end_at_second_press,
    loading,
    placed,
    printed,
    told_of,
    watching,
)
from graft_runtime.terminal import on_one_line, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: what draws boxes takes longer to load than all else
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    cls=Commands,
)

BEGAN = time.monotonic()
NAMES = "probe, tail, lp-ft, two-phase, gradual, full, scratch, lora, norm, early-features, direct"  # a test compares
UNKNOWN_RATE = 0.05  # graft_runtime.decide.RATE, which costs an import of torch; a test compares


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


@app.command(cls=Hinted)
def fit(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the classifier; must not exist, or be empty.")
    ],
    against: Against = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", "-s", help=f"How to transfer: {NAMES}; options as in tail:cut=0.5.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Head to train: linear, mlp or conv; options as in mlp:hidden=256+128.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="How to train: epochs=10,rate=0.001,augment=strong,...")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help=f"Pretrained network. [default: {DEFAULT}]")] = None,
    weights: StartWeights = None,
    offline: Offline = False,
    seed: Annotated[
        int | None, typer.Option(help="Decides the split and all that is drawn. [default: 0]", min=0)
    ] = None,
    boxes: Boxes = False,
    like: Annotated[
        Path | None, typer.Option("--from", help="model.json of a classifier: choose as was chosen for it.")
    ] = None,
    columns: Columns = "",
    strict: Annotated[bool, typer.Option("--strict", help="Stop if a file that a table lists is not there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in OUTPUT.run.")] = False,
    device: Device = AUTO,
    log: Annotated[str, typer.Option(help="Where else to log: tensorboard, mlflow, or both with a comma.")] = "",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html as well.")] = True,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on labelled photos, score it on photos kept aside, and save it."""
    with told_of("fit"):
        from graft import preflight

        preflight.source(photos, columns)
        preflight.source(against)
        preflight.folder(output, force=force)
        asked = {"strategy": strategy, "head": head, "recipe": recipe, "backbone": backbone, "seed": seed}
        preflight.choices(output, like, resume, log, weights, **asked)
        placed(device)
        with loading():
            from graft.jobs.fit import fit as job

        started = time.monotonic() - BEGAN
        classifier = job(
            photos,
            output,
            against=against,
            strategy=strategy,
            head=head,
            recipe=recipe,
            backbone=backbone,
            weights=weights,
            offline=offline,
            seed=seed,
            boxes=boxes,
            like=like,
            columns=columns,
            strict=strict,
            resume=resume,
            log=log,
            report=report,
            force=force,
            told=(lambda epoch: None) if quiet else show.epoch,
            watch=watching(quiet),
        )
        seconds = {"start-up": round(started, 3)} | classifier.report["seconds"]
        made = classifier.report | {"model": str(output), "seconds": seconds}
        printed(made, as_json, lambda made: show.fitted(made, photos, output))


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--csv", help="Write the answers to this file, CSV or .parquet, as they come."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with answers that were not finished.")] = False,
    top: Annotated[int, typer.Option(min=0, show_default="all", help="So many likeliest classes in the file.")] = 0,
    coverage: Coverage = None,
    unknown: UnknownRate = UNKNOWN_RATE,
    device: Device = AUTO,
    no_unknown: Annotated[bool, typer.Option("--no-unknown", help="Never answer 'unknown'.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what pictures show."""
    with told_of("predict to a file" if output else "predict"):
        from graft import preflight

        if (resume or top) and not output:
            raise UsageError("--resume and --top belong to a file of answers: name one with --output.")
        rate, watch = 0.0 if no_unknown else unknown, watching(quiet)
        preflight.shares(coverage, rate)
        preflight.model(model)
        preflight.images(images)
        placed(device, model)
        with loading():
            from graft.jobs import predict as job

        if output:
            job.check(output, resume=resume, force=force)
            asked = job.Asked(coverage, rate, top)
            written = asdict(job.write(str(model), images, output, asked, resume=resume, force=force, watch=watch))
            printed(written, as_json, show.written)
            faulty = written["faults"] == written["answers"]
        else:
            predictions, care = job.predict_with_care(str(model), images, coverage=coverage, unknown=rate, watch=watch)
            show.cautioned(care)
            plain = [prediction.as_dict() for prediction in predictions]
            printed(plain, as_json, show.predicted)
            faulty = all(prediction.fault for prediction in predictions)
        if faulty:
            raise typer.Exit(3)


@app.command()
def embed(
    photos: Photos,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File (.npz, .parquet) for the features; must not exist.")
    ],
    backbone: Backbone = DEFAULT,
    weights: Weights = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Features of all layers, pooled.")] = False,
    maps: Annotated[
        str | None, typer.Option(help="Feature maps [c, h, w] of these stages instead: STAGE+STAGE; see graft stages.")
    ] = None,
    offline: Offline = False,
    columns: Columns = "",
    boxes: Boxes = False,
    device: Device = AUTO,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Save the features of each photo, the numbers that a pretrained network sees in it, for your own use."""
    with told_of("embed"):
        from graft import preflight

        if maps is not None and (all_layers or boxes):
            raise UsageError("--maps names the stages of whole images: leave --all-layers and --boxes out.")
        preflight.file(output, force=force)
        preflight.source(photos, columns)
        preflight.backbone(backbone)
        preflight.weights(weights)
        placed(device)
        with loading():
            from graft.jobs import embed as job
            from graft.jobs import maps as spatial

        if maps is not None:
            written = spatial.maps(
                photos,
                output,
                maps,
                backbone=backbone,
                weights=weights,
                offline=offline,
                columns=columns,
                force=force,
                watch=watching(quiet),
            )
            return show.mapped(on_one_line(asdict(written)), output)
        job.check(output, force=force)
        table = job.embed(
            photos,
            backbone=backbone,
            weights=weights,
            all_layers=all_layers,
            offline=offline,
            columns=columns,
            boxes=boxes,
            watch=watching(quiet),
        )
        job.write(table, output)
        show.embedded(on_one_line(table.summary()), output)


@app.command()
def stages(
    backbone: Annotated[str, typer.Argument(help="Network; `graft backbones` lists them.")] = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """List the stages of a network, for --strategy tail:cut=NAME."""
    with told_of("stages"):
        from graft import preflight

        preflight.backbone(backbone)
        with loading():
            from graft.jobs.stages import stages as job

        chain = job(backbone)
        printed(chain, as_json, lambda chain: show.stages(backbone, chain))


@app.command()
def backbones(
    filter: Annotated[str, typer.Option("--filter", "-f", help="Part of a name, or a pattern: 'resnet*'.")] = "*",
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """List the pretrained networks: size, cost, licence of the weights, and where these would come from."""
    with told_of("backbones"):
        with loading():
            from graft.jobs.backbones import backbones as job

        found = job(filter, offline=offline)
        printed(found, as_json, show.networks)


for command in (gathering.collect, gathering.check):  # what comes before training has a file of its own
    app.command()(command)
for command in (judging.evaluate, judging.compare_runs, judging.report, judging.explain):  # and after it
    app.command()(command)
for command in (deploy.export, deploy.serve):
    app.command()(command)
app.command()(changing.update)


def _remarked(message: Warning | str, *_where: object) -> None:
    show.cautioned([str(message)])


def _name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")


def main() -> None:
    """The program `graft`."""
    if not sys.flags.dev_mode:  # libraries' warnings are for the people who write graft
        import warnings

        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=Remark)
        warnings.showwarning = _remarked
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an old terminal shows '日' as an escape, not a traceback
    end_at_second_press()
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    program = copy(app)
    if own := [each for each in app.registered_commands if asked == _name(each)]:
        program.registered_commands = own  # all others would be worked out too
    program()


if __name__ == "__main__":
    main()
