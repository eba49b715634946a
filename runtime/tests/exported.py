"""A small exported file, made without PyTorch: the share of red, green and blue decides."""

from __future__ import annotations

import io

import onnx
from onnx import parser
from PIL import Image

from graft_runtime.card import COVERAGES, Card
from graft_runtime.contract import Export, append_description

CLASSES = ("red", "green", "blue")
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
colours (uint8[n, height, width, 3] image) => (float[n, 3] probabilities, float[n] unknown)
<int64[2] places = {1, 2}, int64[1] colours = {1}, float whole = {255.0}, float one = {1.0}>
{
  numbers = Cast<to = 1>(image)
  means = ReduceMean<keepdims = 0>(numbers, places)
  totals = ReduceSum(means, colours)
  safe = Max(totals, one)
  probabilities = Div(means, safe)
  sums = ReduceMax<keepdims = 0>(means, colours)
  unknown = Div(sums, whole)
}
"""


def model() -> bytes:
    return parser.parse_model(GRAPH).SerializeToString()


def card(**changes: object) -> Card:
    entries: dict[str, object] = {
        "classes": CLASSES,
        "preprocess": {"size": 32, "resize": 32},
        "backbone": {"name": "colours"},
        "head": {"kind": "linear"},
        "strategy": "probe",
        "temperature": 1.0,
        "sets": tuple(1 - coverage for coverage in COVERAGES),
    }
    return Card(**(entries | changes))  # pyright: ignore[reportArgumentType]


def file(export: Export | None = None, **changes: object) -> bytes:
    """The bytes of a file; what is brighter than all of the hundred strays is unknown."""
    strays = tuple(0.9 * number / 100 for number in range(1, 101))
    return append_description(model(), card(**changes), export or Export(strays=strays))


def without_numbers() -> bytes:
    """A file that divides by 0 where an image is black."""
    graph = GRAPH.replace("float one = {1.0}", "float one = {0.0}")
    return append_description(parser.parse_model(graph).SerializeToString(), card(), Export())


def with_external_data() -> bytes:
    found = onnx.load_from_string(model())
    tensor = found.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return append_description(found.SerializeToString(), card(), Export())


def image(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """The bytes of an image of one colour, (width, height) in pixels."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()
