"""Command `update`, and the printing of its changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli import format
from graft.cli.options import AsJson, Force, Quiet, choose_progress, print_result, report_errors, show_loading
from graft.errors import UsageError
from graft_runtime.terminal import say

MAX_TABLE_CLASSES = 20  # classes in the table; those that got worse come first


def update(
    model: Annotated[Path, typer.Argument(help="Folder of a saved classifier.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the new classifier. [default: only say what happens]"),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of class folders, or of one class's photos; or what else `fit` reads. May repeat."),
    ] = None,
    rename: Annotated[list[str] | None, typer.Option(help="old=new. May repeat.")] = None,
    merge: Annotated[list[str] | None, typer.Option(help="a+b=c: all of these become one. May repeat.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A class to forget, images and all. May repeat.")] = None,
    correct: Annotated[
        Path | None, typer.Option(help="Table of files and labels, as `graft check --fix` writes it.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Where the old photos lie: for those not in the cache, and to show them.")
    ] = None,
    allow_worse: Annotated[
        bool, typer.Option("--allow-worse", help="Write it even if old classes are significantly worse.")
    ] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html as well.")] = True,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add, rename, merge or remove classes of a classifier, or correct labels; the old photos need not be there.

    In this order: correct, rename, merge, remove, add.
    """
    with report_errors("update"):
        from graft.cli import preflight

        preflight.check_model(model, allow_backbone=False)
        preflight.check_output_folder(output, force=force)
        for each in (*(add or ()), correct, photos):
            preflight.check_source(each)
        for option, form, texts in (("rename", "old=new", rename), ("merge", "a+b=c", merge)):
            for text in texts or ():
                _equals_positions(text, option, form)
        with show_loading():
            from graft.jobs.update.update import update as job
        from graft.model import storage

        classes = storage.read_card(model).classes
        renames = _build_unique_dict(
            "rename", [_split_pair(text, classes, "rename", "old=new") for text in rename or ()]
        )
        names = [*classes, *renames.values()]
        pairs = (_split_pair(text, names, "merge", "a+b=c") for text in merge or ())
        merges = _build_unique_dict("merge", [(new, _split_classes(old, names)) for old, new in pairs])
        classifier = job(
            model,
            output,
            add=list(add or ()),
            rename=renames,
            merge=merges,
            remove=remove or (),
            correct=correct,
            photos=photos,
            allow_worse=allow_worse,
            report=report,
            force=force,
            watch=choose_progress(quiet),
        )
        made = classifier.report | {"model": str(output) if output else None}
        print_result(made, as_json, lambda made: print_updated(made, output, photos))


def _split_pair(text: str, classes: Sequence[str], option: str, form: str) -> tuple[str, str]:
    """Split at the '=' with known classes before it: class names may hold a '=' themselves."""
    places = _equals_positions(text, option, form)
    known = [at for at in places if text[:at] in classes or _match_classes(text[:at], classes)]
    at = (known or places)[0]
    return text[:at], text[at + 1 :]


def _equals_positions(text: str, option: str, form: str) -> list[int]:
    """Return the positions of '='. UsageError without any."""
    places = [at for at, letter in enumerate(text) if letter == "="]
    if not places:
        raise UsageError(f"--{option} has the form {form}. Got {text!r}.")
    return places


def _build_unique_dict(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dictionary. UsageError for a class given twice, as only the last would count."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--{option} is given twice for {twice[0]!r}. Put it into one.")
    return dict(pairs)


def _split_classes(text: str, classes: Sequence[str]) -> list[str]:
    """Split classes joined by '+', which their names may hold as well."""
    return _match_classes(text, classes) or text.split("+")


def _match_classes(text: str, classes: Sequence[str]) -> list[str]:
    if text in classes:
        return [text]
    heads = (name for name in classes if text.startswith(f"{name}+"))
    return next(([name, *rest] for name in heads if (rest := _match_classes(text[len(name) + 1 :], classes))), [])


def print_updated(report: Mapping[str, Any], output: Path | None, photos: Path | None = None) -> None:
    """Print the summary of `graft update`."""
    changes = report["update"]
    for old, new in changes["rename"].items():
        say(f"  renamed      {old} is now called {new}")
    if "effect" in changes:
        _print_changes(changes)
        _print_effect(changes["effect"])
        format.print_score(report["evaluation"], caveats=format.list_cautions(report))
        spent = ", ".join(f"{what} {seconds:.1f}" for what, seconds in report["seconds"].items() if seconds >= 0.05)
        say(f"  trained on   {report['data']['train']:,} images of {len(report['classes'])} classes")
        say(f"  head         {report['head']['name']}, solved anew on all of them")
        say(f"  time         {sum(report['seconds'].values()):.1f} s ({spent})")
        format.print_findings(report["data"])
    else:
        say("  numbers      not one is changed")
    if output is None:
        say("\nNothing was written. Next:  the same command with -o model2/")
        return
    say(f"  saved in     {output}")
    if (output / format.PAGE).is_file():
        say(f"  report       {output / format.PAGE}")
    say(f"\nNext:  {format.next_command(output, photos, report.get('example', ''))}")


def _print_changes(changes: Mapping[str, Any]) -> None:
    for new, parts in changes["merge"].items():
        say(f"  merged       {' and '.join(parts)} into {new}")
    for name in changes["remove"]:
        say(f"  removed      {name}")
    if changes["corrected"] is not None:
        say(f"  corrected    {changes['corrected']:,} labels are not what they were")
    for name, count in changes["added"].items():
        say(f"  added        {count['train']:,} images of {name} to train on, {count['test']:,} to test on")
    if changes["known_already"]:
        known = f"{changes['known_already']:,} of the added images"
        say(f"  known        {known} were there before, and stay where they are")


def _print_effect(effect: Mapping[str, Any]) -> None:
    """Print the comparison of the old classes before and after, on the old test images."""
    whole = effect["whole"]
    if whole is None:
        say("\nBefore and after cannot be compared: no test image of before is left.")
        return
    named = "mean average precision" if whole["metric"] != "accuracy" else "right"
    verdict = "not distinguishable from before" if whole["verdict"] not in ("better", "worse") else whole["verdict"]
    say(f"\nOld test images ({whole['shared']:,}): {whole['second']:.1%} {named} before, ", end="")
    say(f"{whole['first']:.1%} after: {verdict}\n")
    classes = sorted(effect["classes"], key=lambda each: (each["verdict"] != "worse", each["first"] - each["second"]))
    width = max((len(each["name"]) for each in classes), default=0)
    say(f"  {'class':<{width}}  {'before':>7}  {'after':>7}  {'gained':>6}  {'lost':>5}  verdict")
    for each in classes[:MAX_TABLE_CLASSES]:
        say(f"  {each['name']:<{width}}  {each['second']:7.1%}  {each['first']:7.1%}  ", end="")
        say(f"{each['gained']:>6,}  {each['lost']:>5,}  {each['verdict']}")
    if len(classes) > MAX_TABLE_CLASSES:
        say(f"  and {len(classes) - MAX_TABLE_CLASSES:,} more, all in report.json")
