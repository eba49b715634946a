"""The card of a classifier (model.json), its README.md, and what it shows in a notebook."""

from __future__ import annotations

import html
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from graft.backbones.backbone import Backbone
from graft.model.network import Network
from graft_runtime import display
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.terminal import escape_breaks

MAX_NAMED = 20  # classes in the first paragraph of the README
MAX_SHOWN_CLASSES = 12  # in a notebook
NEXT_LINES = (  # what to do with a classifier next
    'classifier.predict("photo.jpg")',
    'classifier.save("model/")',
    'graft.export(classifier, "model.onnx")',
)
MARKDOWN_MARKS = re.compile(r"([\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is one anyway


def build_card(
    network: Network, backbone: Backbone, classes: tuple[str, ...], strategy: str, temperature: float
) -> Card:
    """Build the card of a network made from this backbone; its callers add scores and data."""
    source = backbone.source
    return Card(
        classes=classes,
        preprocess=asdict(network.preprocess),
        backbone={
            "name": backbone.name,
            "library": backbone.entry.library if backbone.entry else "onnx",
            "origin": source.origin,
            "where": source.where,
            "sha256": source.sha256,
            "licence": source.licence,
        },
        head=network.head.spec,
        strategy=strategy,
        temperature=temperature,
        layers=network.features.layers,
        top=network.features.top,
        pool=network.features.pool,
        provenance=collect_versions(),
        licences={"weights": source.licence, "code": "Apache-2.0"},
    )


def collect_versions() -> dict[str, Any]:
    """Return the versions of the packages and the time, for the provenance."""
    packages = {"graft": "graft-vision", "torch": "torch", "timm": "timm", "onnxruntime": "onnxruntime"}
    return {
        **{name: found for name, package in packages.items() if (found := package_version(package))},
        "python": platform.python_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def package_version(package: str) -> str:
    """Return the installed version; empty where the package is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --- README.md --------------------------------------------------------------------------------------------------------


def build_readme(card: Card, report: dict[str, Any]) -> str:
    """Build the README.md of a saved classifier."""
    return (
        "\n".join([*_summary_section(card), *_score_section(report), *_origin_section(card), *_usage_section()]) + "\n"
    )


def _summary_section(card: Card) -> list[str]:
    more = len(card.classes) - MAX_NAMED
    names = ", ".join(map(_escape, card.classes[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")
    if card.task == MULTILABEL:
        text = f"Gives an image any number of {len(card.classes)} labels, or none: {names}."
    else:
        text = f"Tells {len(card.classes)} classes apart: {names}."
        if not card.unknown:
            text += " It always answers one of them, whatever the image shows."
    if "rate" in card.unknown:
        text += f" Images unlike all of its training images are called unknown, and {card.unknown['rate']:.0%} or less"
        text += " of those that do show one of the classes."
    return ["# Image classifier", "", text, ""]


def _score_section(report: dict[str, Any]) -> list[str]:
    score = report.get("evaluation")
    if not score:
        return ["It was **not evaluated**: there were no images to spare for a test.", ""]
    return _multilabel_section(score) if score.get("task") == MULTILABEL else _multiclass_section(score)


def _multilabel_section(score: dict[str, Any]) -> list[str]:
    low, high = map(_format_percent, score["interval"] or (None, None))
    precision, micro_f1 = _format_percent(score["mean_average_precision"]), _format_percent(score["micro_f1"])
    exact = f"{score['subset_accuracy']:.1%}"
    rows = [
        f"| {_escape_cell(each['name'])} | {_format_percent(each['average_precision'])} "
        f"| {_format_percent(each['precision'])} | {_format_percent(each['recall'])} "
        f"| {each['threshold']:.2f} | {each['count']} |"
        for each in sorted(score["classes"], key=lambda each: each["f1"] or 0.0)
    ]
    return [
        f"The mean average precision on {score['count']} test images that it never saw is",
        f"**{precision}**; the true figure lies between {low} and {high} with 95 %",
        f"confidence, for images taken the same way. {exact} of them get exactly the right",
        f"labels; F1 over all labels is {micro_f1}. Expect worse in a new place or with a new",
        "camera.",
        "",
        "| label, worst first | average precision | precision | recall | from probability | test images |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _format_percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _multiclass_section(score: dict[str, Any]) -> list[str]:
    low, high = score["interval"]
    rows = [
        f"| {_escape_cell(each['name'])} | {_format_percent(each['precision'])} "
        f"| {_format_percent(each['recall'])} | {each['count']} |"
        for each in sorted(score["classes"], key=lambda each: each["f1"] or 0.0)
    ]
    return [
        f"**{score['accuracy']:.1%}** of {score['count']} test images that it never saw are right; the true figure",
        f"lies between {low:.1%} and {high:.1%} with 95 % confidence, for images taken the same way. Expect worse in",
        "a new place or with a new camera.",
        "",
        "| class, worst first | precision | recall | test images |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _origin_section(card: Card) -> list[str]:
    layers, made = [*card.layers, *(["last"] if card.top else [])], card.provenance
    train, test, seed = (_format_count(card, name) for name in ("train", "test", "seed"))
    lines = [
        f"backbone: {card.backbone['name']}, {_describe_weights(card)}",
        f"strategy: {card.strategy}; head: {card.head.get('solver', '-')}; layers: {', '.join(layers)}",
        f"trained on {train} images, tested on {test}; seed {seed}",
        f"written by graft {made.get('graft', '-')} on {made.get('created', '-')}",
    ]
    return ["## Where it comes from", "", *[f"- {_escape(line)}" for line in lines], ""]


def _format_count(card: Card, name: str) -> str:
    own = card.data.get(name, "-")
    return str(own) if name == "seed" or own == "-" else f"{own:,}"


def _describe_weights(card: Card) -> str:
    """Describe the weights that the network started from."""
    origin = card.backbone.get("origin", "not stated")
    if card.backbone.get("where") == "random":
        return f"random weights, {origin}: pretrained on nothing"
    return f"weights {origin}, licence {card.backbone.get('licence', 'not stated')}"


def _usage_section() -> list[str]:
    return ["## Use", "", "```python", "import graft", "", 'graft.load("this folder").predict("photo.jpg")', "```"]


def _escape(text: str) -> str:
    """Any text as the words that it is: not Markdown, no HTML, and on one line."""
    return html.escape(MARKDOWN_MARKS.sub(r"\\\1", escape_breaks(text)), quote=False)


def _escape_cell(text: str) -> str:
    """Escape a text inside a table."""
    return _escape(text).replace("|", "\\|")


# --- in a notebook ----------------------------------------------------------------------------------------------------


def build_html(card: Card, report: Mapping[str, Any]) -> str:
    """Build the HTML by which a classifier shows itself in a notebook."""
    train = f", trained on {_format_count(card, 'train')} images" if card.data.get("train") else ""
    try:
        score = _score_html(report.get("evaluation"))
        rows = _class_rows(card, report.get("evaluation") or {})
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):  # report.json is checked by nobody
        score, rows = display.note("Its report.json is not what graft wrote."), _class_rows(card, {})
    more = len(card.classes) - len(rows)
    return display.block(
        f"Classifier of {len(card.classes):,} classes",
        display.note(f"{card.backbone.get('name', 'network not stated')}, strategy {card.strategy}{train}"),
        score,
        display.table(("label" if card.task == MULTILABEL else "class", "training images", "test images", "F1"), rows),
        display.note(f"and {more:,} more" if more else ""),
        display.code(*NEXT_LINES),
    )


def _score_html(score: Any) -> str:
    """Return the score with its interval. Raises KeyError, TypeError or ValueError for what graft did not write."""
    if not score:
        return display.note("Not evaluated: there were no images to spare for a test.")
    multilabel = score["task"] == MULTILABEL
    figure = _as_share(score["mean_average_precision" if multilabel else "accuracy"])
    words = "mean average precision" if multilabel else "right"
    text = f"{display.format_percent(figure)} {words} on {score['count']:,} held-out images"
    if not score["interval"] or figure is None:
        return display.note(text)
    low, high = map(float, score["interval"])
    span = f" (95 % confidence: {low:.1%} to {high:.1%})"
    drawn = display.draw_interval(figure, low, high)
    return drawn + display.note(text + span) + "".join(display.note(str(each)) for each in score.get("careful", ()))


def _class_rows(card: Card, score: Any) -> list[tuple[str, str, str, str]]:
    """Return name, training images, test images and F1 of the first classes, as HTML."""
    scored = {each["name"]: each for each in score.get("classes", ())}
    shares, train = card.data.get("shares", ()), card.data.get("train", 0)
    counts = [f"{round(share * train):,}" for share in shares] if len(shares) == len(card.classes) else []
    rows = []
    for at, name in enumerate(card.classes[:MAX_SHOWN_CLASSES]):
        own = scored.get(name)
        tested = (f"{own['count']:,}", display.format_percent(_as_share(own["f1"]))) if own else (display.MISSING,) * 2
        rows.append((display.escape_text(name), counts[at] if counts else display.MISSING, *tested))
    return rows


def _as_share(value: Any) -> float | None:
    return None if value is None else float(value)
