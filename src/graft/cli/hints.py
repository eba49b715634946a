"""Hints for options that belong inside another one: `--epochs 3` is `--recipe epochs=3`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand

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


# --- suggestions for an unknown option --------------------------------------------------------------------------------


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
