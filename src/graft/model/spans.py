"""Which part of a network a phase of training changed, in words: for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONLY = {"all": "", "adapters": ", adapters only", "norms": ", norms and biases only"}


def span(phase: Mapping[str, Any]) -> str:
    """'from layer3 on, stage 8 of 10', for a phase as `report.json` describes it."""
    first, stages = phase["place"] + 1, phase["stages"]
    until = phase.get("until", "head")  # of training before graft 0.1 there is none
    if layers := phase.get("layers"):
        return f"the last layer, {layers[0]}" if len(layers) == 1 else f"the last {len(layers)} layers, {_from(layers)}"
    if phase["cut"] == "head":
        return "the head"
    if until != "head":
        last = stages - len(phase["kept_above"])
        which = f"stage {first}" if first == last else f"stages {first} to {last}"
        return f"from {phase['cut']} up to {until}, {which} of {stages}{ONLY[phase['only']]}"
    where = f"from {phase['cut']} on, stage {first} of {stages}" if phase["place"] else "everything"
    return where + ONLY[phase["only"]]


def _from(layers: list[str]) -> str:
    """All names where they are few."""
    return ", ".join(layers) if len(layers) <= 4 else f"from {layers[0]} on"
