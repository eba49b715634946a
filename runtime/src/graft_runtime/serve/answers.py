"""What the file says of a picture, as a client is told it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import LONGEST
from graft_runtime.contract import HEAT, PROBABILITIES
from graft_runtime.prediction import Prediction
from graft_runtime.serve.line import Outputs
from graft_runtime.serve.model import Served
from graft_runtime.serve.refusal import Refusal
from graft_runtime.serve.work import Judged


def wanted(served: Served, heat: bool) -> tuple[str, ...]:
    """The outputs of the file that an answer is made of."""
    return (*served.predictor.wanted, *[HEAT] * (heat and HEAT in served.outputs))


def told(served: Served, judged: Judged, coverage: float | None, unknown: float) -> Prediction:
    """What a client is told of one picture. Raises Refusal for shares that this classifier does not know."""
    if judged.found is None:
        return Prediction(judged.name, None, judged.fault)
    try:
        (said,) = served.predictor.told(
            [judged.name], {name: part[None] for name, part in judged.found.items()}, coverage, unknown
        )
    except ValueError as error:
        raise Refusal(422, "wrong_option", str(error)) from error
    return said


def heat(served: Served, judged: Judged) -> dict[str, Any] | None:
    """How much each place speaks for the likeliest class; None where the file does not tell."""
    found = judged.found
    if found is None or HEAT not in found:
        return None
    best = int(found[PROBABILITIES].argmax())
    values = found[HEAT][best]
    return {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "values": [round(float(value), 4) for value in values.ravel()],
        "area": area(served.predictor.card.preprocess, judged.height, judged.width),
        "class": served.predictor.classes[best],
    }


def area(preprocess: dict[str, Any], height: int, width: int) -> list[float]:
    """Left, top, width and height of what the network sees, in fractions of the upright picture."""
    kept = preprocess["size"] / preprocess["resize"]
    if preprocess.get("crop") == "squash":
        across = min(1.0, LONGEST * height / width) * kept, min(1.0, LONGEST * width / height) * kept
    else:
        short = min(height, width) * kept
        across = short / width, short / height
    return [round(value, 4) for value in ((1 - across[0]) / 2, (1 - across[1]) / 2, *across)]


def share(text: str, name: str) -> float:
    """A number from 0 to 1 in the query. Raises Refusal."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Refusal(422, "wrong_option", f"The option {name} is a number from 0 to 1, as 0.9. Got {text!r}.")
    return value


def rows(outputs: list[Outputs], name: str) -> NDArray[Any]:
    """One output of several pictures, stacked."""
    return np.stack([found[name] for found in outputs])
