"""The model card: what a stranger who finds the folder needs to know."""

from __future__ import annotations

import html
import re
from typing import Any

from graft_runtime.card import MULTILABEL, Card
from graft_runtime.terminal import on_one_line

NAMED = 20  # classes in the first paragraph
MARKS = re.compile(r"([\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is one anyway


def text(card: Card, report: dict[str, Any]) -> str:
    """The README.md of a saved classifier."""
    return "\n".join([*_what(card), *_score(report), *_origin(card), *_use()]) + "\n"


def _what(card: Card) -> list[str]:
    more = len(card.classes) - NAMED
    names = ", ".join(map(_escaped, card.classes[:NAMED])) + (f" and {more} more" if more > 0 else "")
    if card.task == MULTILABEL:
        said = f"Gives a picture any number of {len(card.classes)} labels, or none: {names}."
    else:
        said = f"Tells {len(card.classes)} classes apart: {names}."
        if not card.unknown:
            said += " It always answers one of them, whatever the picture shows."
    if "rate" in card.unknown:
        said += (
            f" Pictures unlike all of its training pictures are called unknown, and {card.unknown['rate']:.0%} or less"
        )
        said += " of those that do show one of the classes."
    return ["# Image classifier", "", said, ""]


def _score(report: dict[str, Any]) -> list[str]:
    score = report.get("evaluation")
    if not score:
        return ["It was **not evaluated**: there were no pictures to spare for a test.", ""]
    return _of_several(score) if score.get("task") == MULTILABEL else _of_one(score)


def _of_several(score: dict[str, Any]) -> list[str]:
    low, high = map(_percent, score["interval"] or (None, None))
    rows = [
        f"| {_cell(each['name'])} | {_percent(each['average_precision'])} | {_percent(each['precision'])} "
        f"| {_percent(each['recall'])} | {each['threshold']:.2f} | {each['count']} |"
        for each in sorted(score["classes"], key=lambda each: each["f1"] or 0.0)
    ]
    return [
        f"The mean average precision on {score['count']} test pictures that it never saw is",
        f"**{_percent(score['mean_average_precision'])}**; the true figure lies between {low} and {high} with 95 %",
        f"confidence, for pictures taken the same way. {score['subset_accuracy']:.1%} of them get exactly the right",
        f"labels; F1 over all labels is {_percent(score['micro_f1'])}. Expect worse in a new place or with a new",
        "camera.",
        "",
        "| label, worst first | average precision | precision | recall | from probability | test pictures |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _of_one(score: dict[str, Any]) -> list[str]:
    low, high = score["interval"]
    rows = [
        f"| {_cell(each['name'])} | {_percent(each['precision'])} | {_percent(each['recall'])} | {each['count']} |"
        for each in sorted(score["classes"], key=lambda each: each["f1"] or 0.0)
    ]
    return [
        f"**{score['accuracy']:.1%}** of {score['count']} test pictures that it never saw are right; the true figure",
        f"lies between {low:.1%} and {high:.1%} with 95 % confidence, for pictures taken the same way. Expect worse in",
        "a new place or with a new camera.",
        "",
        "| class, worst first | precision | recall | test pictures |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _origin(card: Card) -> list[str]:
    layers, made = [*card.layers, *(["last"] if card.top else [])], card.provenance
    train, test, seed = (_count(card, name) for name in ("train", "test", "seed"))
    lines = [
        f"backbone: {card.backbone['name']}, {_weights(card)}",
        f"strategy: {card.strategy}; head: {card.head.get('solver', '-')}; layers: {', '.join(layers)}",
        f"trained on {train} pictures, tested on {test}; seed {seed}",
        f"written by graft {made.get('graft', '-')} on {made.get('created', '-')}",
    ]
    return ["## Where it comes from", "", *[f"- {_escaped(line)}" for line in lines], ""]


def _count(card: Card, name: str) -> str:
    own = card.data.get(name, "-")
    return str(own) if name == "seed" or own == "-" else f"{own:,}"


def _weights(card: Card) -> str:
    """What the network began with."""
    origin = card.backbone.get("origin", "not stated")
    if card.backbone.get("where") == "random":
        return f"random weights, {origin}: pretrained on nothing"
    return f"weights {origin}, licence {card.backbone.get('licence', 'not stated')}"


def _use() -> list[str]:
    return ["## Use", "", "```python", "import graft", "", 'graft.load("this folder").predict("photo.jpg")', "```"]


def _escaped(text: str) -> str:
    """Any text as the words that it is: not Markdown, no HTML, and on one line."""
    return html.escape(MARKS.sub(r"\\\1", on_one_line(text)), quote=False)


def _cell(text: str) -> str:
    """The same inside a table."""
    return _escaped(text).replace("|", "\\|")
