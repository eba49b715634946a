"""A classifier under other class names: not one number changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graft.jobs.update.changes import Names, kept
from graft.model.classifier import Classifier

LISTED = ("few", "untested", "missing")  # entries of the report's data that are lists of class names


def renamed(old: Classifier, names: Names) -> Classifier:
    """The same classifier, its classes called as `names` says. What pictures are called stays."""
    to = {name: new or name for name, new in names.items()}
    report = old.report | {
        "classes": list(kept(names)),
        "update": {"rename": {name: new for name, new in to.items() if name != new}},
    }
    if score := report.get("evaluation"):
        report["evaluation"] = score | {"classes": [_called(each, to) for each in score["classes"]]}
    if data := report.get("data"):
        listed = {entry: [to.get(name, name) for name in data[entry]] for entry in LISTED if entry in data}
        report["data"] = data | listed
    return replace(old, card=replace(old.card, classes=kept(names)), report=report)


def _called(scored: dict[str, Any], to: dict[str, str]) -> dict[str, Any]:
    return scored | {"name": to.get(scored["name"], scored["name"])}
