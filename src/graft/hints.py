"""Options that are none of the command line's own, but words inside one of them: --epochs 3 is --recipe epochs=3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand

SAME = {  # what other programs call them
    **dict.fromkeys(("lr", "learning_rate", "lr0"), "rate"),
    **dict.fromkeys(("bs", "batch_size"), "batch"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("model", "network", "arch", "architecture"), "backbone"),
    **dict.fromkeys(("out", "out_dir", "output_dir", "save"), "output"),
}
Mistake: Any = typer.BadParameter.__bases__[0]  # click's UsageError, of whichever click typer stands on


class Hinted(TyperCommand):
    """`graft fit`: an option that it lacks is looked for in --recipe, --strategy and --head as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Mistake as error:
            option = getattr(error, "option_name", "")
            own = [name for each in self.params for name in (*each.opts, *each.secondary_opts)]
            if option and option not in own:  # else it lacks its value
                error.message, error.possibilities = told(option, given, own), None
            raise


def told(option: str, given: Sequence[str], own: Sequence[str]) -> str:
    """What to say of an option that there is not, with what it would be; `own` are the options that there are."""
    word = option.lstrip("-").replace("-", "_")
    inside = _inside(_after(given, "--strategy", "-s"), _after(given, "--head"))
    known = {name.lstrip("-").replace("-", "_"): name for name in own}
    same = SAME.get(word, word)
    near = [same] if same in known or same in inside else get_close_matches(word, [*known, *inside], n=1)
    if not near:
        return f"No such option: {option}. `graft fit --help` lists all."
    meant = near[0]
    if meant in known:
        return f"No such option: {option}. Did you mean {known[meant]}?"
    return f"No such option: {option}. Did you mean {inside[meant]}={_after(given, option) or '...'}?"


def _inside(strategy: str, head: str) -> dict[str, str]:
    """Words of the recipe, the strategies and the heads, each with the option that it belongs into."""
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


def _after(given: Sequence[str], *options: str) -> str:
    """The value of an option, as typed; empty where there is none."""
    for at, word in enumerate(given):
        name, equals, value = word.partition("=")
        if name in options:
            return value if equals else next(iter(given[at + 1 : at + 2]), "")
    return ""
