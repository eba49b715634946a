"""From outputs of the network to the JSON of a response."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import MAX_ASPECT_RATIO
from graft_runtime.contract import HEAT, PROBABILITIES
from graft_runtime.prediction import Prediction
from graft_runtime.serve.batcher import Outputs
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.inference import ImageResult
from graft_runtime.serve.model import ServedModel


def list_outputs(served: ServedModel, saliency: bool) -> tuple[str, ...]:
    """Return the outputs of the network that a response needs."""
    return (*served.predictor.output_names, *[HEAT] * (saliency and HEAT in served.outputs))


def build_prediction(served: ServedModel, result: ImageResult, coverage: float | None, unknown: float) -> Prediction:
    """Build the prediction for one image. Raises RequestError for a coverage or share that is not legal."""
    if result.found is None:
        return Prediction(result.name, None, result.fault)
    try:
        (prediction,) = served.predictor.build_predictions(
            [result.name], {name: part[None] for name, part in result.found.items()}, coverage, unknown
        )
    except ValueError as error:
        raise RequestError(422, "wrong_option", str(error)) from error
    return prediction


def build_saliency_map(served: ServedModel, result: ImageResult) -> dict[str, Any] | None:
    """Build the saliency map of the likeliest class; None if the network has no such output."""
    found = result.found
    if found is None or HEAT not in found:
        return None
    best = int(found[PROBABILITIES].argmax())
    values = found[HEAT][best]
    return {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "values": [round(float(value), 4) for value in values.ravel()],
        "area": visible_area(served.predictor.card.preprocess, result.height, result.width),
        "class": served.predictor.classes[best],
    }


def visible_area(preprocess: dict[str, Any], height: int, width: int) -> list[float]:
    """Return left, top, width and height of what the network sees, in fractions of the upright image."""
    kept = preprocess["size"] / preprocess["resize"]
    if preprocess.get("crop") == "squash":
        across = min(1.0, MAX_ASPECT_RATIO * height / width) * kept, min(1.0, MAX_ASPECT_RATIO * width / height) * kept
    else:
        short = min(height, width) * kept
        across = short / width, short / height
    return [round(value, 4) for value in ((1 - across[0]) / 2, (1 - across[1]) / 2, *across)]


def parse_share(text: str, name: str) -> float:
    """Parse a number from 0 to 1 of the query. Raises RequestError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(422, "wrong_option", f"The option {name} is a number from 0 to 1, as 0.9. Got {text!r}.")
    return value


def stack_output(outputs: list[Outputs], name: str) -> NDArray[Any]:
    """Stack one output of several images."""
    return np.stack([found[name] for found in outputs])
