"""The model card: what a stranger who finds the folder needs to know."""

from __future__ import annotations

from typing import Any

from graft_runtime.card import Card


def text(card: Card, report: dict[str, Any]) -> str:
    """The README.md of a saved classifier."""
    return "\n".join([*_what(card), *_score(report), *_origin(card), *_use()]) + "\n"


def _what(card: Card) -> list[str]:
    names = ", ".join(card.classes[:20]) + (f" and {len(card.classes) - 20} more" if len(card.classes) > 20 else "")
    return [
        "# Image classifier",
        "",
        f"Tells {len(card.classes)} classes apart: {names}. It always answers one of them, whatever the picture shows.",
        "",
    ]


def _score(report: dict[str, Any]) -> list[str]:
    score = report.get("evaluation")
    if not score:
        return ["It was **not evaluated**: there were no pictures to spare for a test.", ""]
    low, high = score["interval"]
    rows = [
        f"| {_escaped(each['name'])} | {each['precision']:.1%} | {each['recall']:.1%} | {each['count']} |"
        for each in sorted(score["classes"], key=lambda each: each["f1"])
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
    return [
        "## Where it comes from",
        "",
        f"- backbone: {card.backbone['name']}, weights {card.backbone['origin']}, licence {card.backbone['licence']}",
        f"- strategy: {card.strategy}; head: {card.head['solver']}; layers: {', '.join((*card.layers, 'last'))}",
        f"- trained on {card.data['train']:,} pictures, tested on {card.data['test']:,}; seed {card.data['seed']}",
        f"- written by graft {card.provenance['graft']} on {card.provenance['created']}",
        "",
    ]


def _use() -> list[str]:
    return ["## Use", "", "```python", "import graft", "", 'graft.load("this folder").predict("photo.jpg")', "```"]


def _escaped(name: str) -> str:
    return name.replace("|", "\\|").replace("<", "&lt;")
