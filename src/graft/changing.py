"""The command that changes the classes of a classifier, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from graft import scores, show
from graft.errors import UsageError
from graft.terminal import AsJson, Force, Quiet, loading, printed, told_of, watching
from graft_runtime.terminal import say

MOST = 20  # classes in the table; all that changed come first


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
    remove: Annotated[list[str] | None, typer.Option(help="A class to forget, pictures and all. May repeat.")] = None,
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
    with told_of("update"):
        from graft import preflight

        preflight.model(model, named=False)
        preflight.folder(output, force=force)
        for each in (*(add or ()), correct, photos):
            preflight.source(each)
        for option, form, texts in (("rename", "old=new", rename), ("merge", "a+b=c", merge)):
            for text in texts or ():
                _places(text, option, form)
        with loading():
            from graft.jobs.update.update import update as job
        from graft.model import storage

        classes = storage.read_card(model).classes
        renames = _once("rename", [_pair(text, classes, "rename", "old=new") for text in rename or ()])
        names = [*classes, *renames.values()]
        pairs = (_pair(text, names, "merge", "a+b=c") for text in merge or ())
        merges = _once("merge", [(new, _parts(old, names)) for old, new in pairs])
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
            watch=watching(quiet),
        )
        made = classifier.report | {"model": str(output) if output else None}
        printed(made, as_json, lambda made: updated(made, output, photos))


def _pair(text: str, classes: Sequence[str], option: str, form: str) -> tuple[str, str]:
    """Both sides of the '=' before which there are classes: these may have one in their names."""
    places = _places(text, option, form)
    known = [at for at in places if text[:at] in classes or _known(text[:at], classes)]
    at = (known or places)[0]
    return text[:at], text[at + 1 :]


def _places(text: str, option: str, form: str) -> list[int]:
    """Where a '=' stands; UsageError where none does."""
    places = [at for at, letter in enumerate(text) if letter == "="]
    if not places:
        raise UsageError(f"--{option} has the form {form}. Got {text!r}.")
    return places


def _once(option: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """As a dictionary; UsageError where two say something of one class, as only the last would count."""
    named = [name for name, _ in pairs]
    if twice := [name for name in named if named.count(name) > 1]:
        raise UsageError(f"--{option} is given twice for {twice[0]!r}. Put it into one.")
    return dict(pairs)


def _parts(text: str, classes: Sequence[str]) -> list[str]:
    """The classes that are joined by '+', which they may have in their names."""
    return _known(text, classes) or text.split("+")


def _known(text: str, classes: Sequence[str]) -> list[str]:
    if text in classes:
        return [text]
    heads = (name for name in classes if text.startswith(f"{name}+"))
    return next(([name, *rest] for name in heads if (rest := _known(text[len(name) + 1 :], classes))), [])


def updated(report: Mapping[str, Any], output: Path | None, photos: Path | None = None) -> None:
    """The closing summary of `graft update`."""
    told = report["update"]
    for old, new in told["rename"].items():
        say(f"  renamed      {old} is now called {new}")
    if "effect" in told:
        _changed(told)
        _effect(told["effect"])
        scores.score(report["evaluation"], also=show.careful(report))
        spent = ", ".join(f"{what} {seconds:.1f}" for what, seconds in report["seconds"].items() if seconds >= 0.05)
        say(f"  trained on   {report['data']['train']:,} pictures of {len(report['classes'])} classes")
        say(f"  head         {report['head']['name']}, solved anew on all of them")
        say(f"  time         {sum(report['seconds'].values()):.1f} s ({spent})")
        show.findings(report["data"])
    else:
        say("  numbers      not one is changed")
    if output is None:
        say("\nNothing was written. Next:  the same command with -o model2/")
        return
    say(f"  saved in     {output}")
    if (output / show.PAGE).is_file():
        say(f"  report       {output / show.PAGE}")
    say(f"\nNext:  {show.used(output, photos, report.get('example', ''))}")


def _changed(told: Mapping[str, Any]) -> None:
    for new, parts in told["merge"].items():
        say(f"  merged       {' and '.join(parts)} into {new}")
    for name in told["remove"]:
        say(f"  removed      {name}")
    if told["corrected"] is not None:
        say(f"  corrected    {told['corrected']:,} labels are not what they were")
    for name, count in told["added"].items():
        say(f"  added        {count['train']:,} pictures of {name} to train on, {count['test']:,} to test on")
    if told["known_already"]:
        say(
            f"  known        {told['known_already']:,} of the added pictures were there before, and stay where they are"
        )


def _effect(effect: Mapping[str, Any]) -> None:
    """How the old classes fare, on the old test pictures."""
    whole = effect["whole"]
    if whole is None:
        say("\nBefore and after cannot be compared: no test picture of before is left.")
        return
    named = "mean average precision" if whole["metric"] != "accuracy" else "right"
    verdict = "not distinguishable from before" if whole["verdict"] not in ("better", "worse") else whole["verdict"]
    say(f"\nOld test pictures ({whole['shared']:,}): {whole['second']:.1%} {named} before, ", end="")
    say(f"{whole['first']:.1%} after: {verdict}\n")
    classes = sorted(effect["classes"], key=lambda each: (each["verdict"] != "worse", each["first"] - each["second"]))
    width = max((len(each["name"]) for each in classes), default=0)
    say(f"  {'class':<{width}}  {'before':>7}  {'after':>7}  {'gained':>6}  {'lost':>5}  verdict")
    for each in classes[:MOST]:
        say(f"  {each['name']:<{width}}  {each['second']:7.1%}  {each['first']:7.1%}  ", end="")
        say(f"{each['gained']:>6,}  {each['lost']:>5,}  {each['verdict']}")
    if len(classes) > MOST:
        say(f"  and {len(classes) - MOST:,} more, all in report.json")
