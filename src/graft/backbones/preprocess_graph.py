"""Resize, crop and normalise as an ONNX graph, with the very pixels of training."""

from __future__ import annotations

import onnx
from onnx import ModelProto, compose, inliner, parser

from graft.backbones.preprocess import Preprocess
from graft_runtime.card import MAX_ASPECT_RATIO

IMAGE, PREPARED = "image", "prepared"
OPSET = 20  # the newest that torch's tracing exporter writes
IR = 10  # IR version of the file: that of opset 21, which every runtime of the last two years reads


# --- The same as an ONNX graph ----------------------------------------------------------------------------------------

_FLOAT, _INT64, _DOUBLE, _UINT8 = 1, 7, 11, 2
_TARGETS = {
    "squash": "target = Identity(sides)",
    "center": """
      scaled = Mul(kept, sides)
      shortest = ReduceMin(kept)
      shares = Div(scaled, shortest)
      target = Max(shares, sides)""",
}
_KERNEL_NODES = {  # functions of the distance x, from 0 on
    "bilinear": """
      slope = Sub(one, x)
      kernel = Max(slope, nought)""",
    "bicubic": """
      c15 = Constant<value = double {1.5}>()  c25 = Constant<value = double {2.5}>()
      c5 = Constant<value = double {5.0}>()   c8 = Constant<value = double {8.0}>()
      c4 = Constant<value = double {4.0}>()   c05 = Constant<value = double {-0.5}>()
      near_3 = Mul(x, c15)    near_2 = Sub(near_3, c25)  squared = Mul(x, x)
      near_1 = Mul(near_2, squared)  near = Add(near_1, one)
      far_5 = Sub(x, c5)      far_4 = Mul(far_5, x)    far_3 = Add(far_4, c8)
      far_2 = Mul(far_3, x)   far_1 = Sub(far_2, c4)   far = Mul(far_1, c05)
      is_near = Less(x, one)  is_far = Less(x, two)
      outer = Where(is_far, far, nought)
      kernel = Where(is_near, near, outer)""",
}
_REACH = {"bilinear": 1, "bicubic": 2}

_WEIGHTS = """
<domain: "graft", opset_import: ["" : {opset}]>
weights (length, size, start, end) => (matrix, unit)
{{
  one = Constant<value = double {{1.0}}>()    two = Constant<value = double {{2.0}}>()
  half = Constant<value = double {{0.5}}>()   nought = Constant<value = double {{0.0}}>()
  reach = Constant<value = double {{{reach}.0}}>()
  most = Constant<value = double {{32768.0}}>()
  units = Constant<value = double[23] {{{units}}}>()
  first_axis = Constant<value = int64[1] {{0}}>()   last_axis = Constant<value = int64[1] {{1}}>()
  zero = Constant<value = int64 {{0}}>()            step = Constant<value = int64 {{1}}>()
  long = Cast<to = {double}>(length)
  wide = Cast<to = {double}>(size)
  scale = Div(long, wide)
  stretch = Max(scale, one)
  support = Mul(reach, stretch)
  places = Range(zero, size, step)
  places_double = Cast<to = {double}>(places)
  middles = Add(places_double, half)
  centres = Mul(middles, scale)
  left = Sub(centres, support)
  left_half = Add(left, half)
  left_whole = Cast<to = {int64}>(left_half)
  firsts = Max(left_whole, zero)
  rounded = Ceil(support)
  both = Mul(rounded, two)
  all = Add(both, one)
  count = Cast<to = {int64}>(all)
  taps = Range(zero, count, step)
  columns = Unsqueeze(firsts, last_axis)
  taken = Add(columns, taps)
  taken_double = Cast<to = {double}>(taken)
  taken_middle = Add(taken_double, half)
  centre_column = Unsqueeze(centres, last_axis)
  offsets = Sub(taken_middle, centre_column)
  shrink = Div(one, stretch)
  distances = Mul(offsets, shrink)
  x = Abs(distances)
  {kernel}
  inside = Less(taken, length)
  inner = Where(inside, kernel, nought)
  sums = ReduceSum(inner, last_axis)
  shares = Div(inner, sums)
  largest = ReduceMax<keepdims = 0>(shares)
  heights = Mul(units, largest)
  tops = Add(heights, half)
  fitting = Less(tops, most)
  allowed = Where(fitting, units, one)
  fine = ReduceMax<keepdims = 0>(allowed)
  unit = Cast<to = {float}>(fine)
  scaled = Mul(shares, fine)
  signs = Sign(scaled)
  away = Mul(signs, half)
  moved = Add(scaled, away)
  whole = Cast<to = {int64}>(moved)
  values = Cast<to = {float}>(whole)
  rows = Slice(values, start, end, first_axis)
  rows_taken = Slice(taken, start, end, first_axis)
  last = Sub(length, step)
  within = Min(rows_taken, last)
  extent = Sub(end, start)
  length_1 = Unsqueeze(length, first_axis)
  shape = Concat<axis = 0>(extent, length_1)
  empty = ConstantOfShape(shape)
  matrix = ScatterElements<axis = 1, reduction = "add">(empty, within, rows)
}}
"""
_ROUNDED = """
<domain: "graft", opset_import: ["" : {opset}]>
rounded (sums, unit) => (values)
{{
  half = Constant<value = float {{0.5}}>()
  black = Constant<value = float {{0.0}}>()
  white = Constant<value = float {{255.0}}>()
  parts = Div(sums, unit)
  moved = Add(parts, half)
  whole = Floor(moved)
  values = Clip(whole, black, white)
}}
"""
_GRAPH = """
<ir_version: {ir}, opset_import: ["" : {opset}, "graft" : 1]>
pixels (uint8[n, height, width, 3] image) => (uint8[n, 3, {size}, {size}] prepared)
<
  int64[1] longest = {{{longest}}}, int64[1] two = {{2}}, double[1] half = {{0.5}}, int64[2] axes = {{2, 3}},
  int64[2] sides = {{{resize}, {resize}}}, int64[2] crop = {{{size}, {size}}},
  int64 zero = {{0}}, int64 one = {{1}}
>
{{
  channels = Transpose<perm = [0, 3, 1, 2]>(image)
  given = Shape<start = 1, end = 3>(image)
  short = ReduceMin(given)
  most = Mul(short, longest)
  kept = Min(given, most)
  beyond = Sub(given, kept)
  first = Div(beyond, two)
  last = Add(first, kept)
  strip = Slice(channels, first, last, axes)
  {target}
  spare = Sub(target, crop)
  spare_double = Cast<to = {double}>(spare)
  margin = Mul(spare_double, half)
  even = Round(margin)
  starts = Cast<to = {int64}>(even)
  ends = Add(starts, crop)
  height_in = Gather(kept, zero)
  height_out = Gather(target, zero)
  top, left = Split<axis = 0, num_outputs = 2>(starts)
  bottom, right = Split<axis = 0, num_outputs = 2>(ends)
  width_in = Gather(kept, one)
  width_out = Gather(target, one)
  across, unit_across = graft.weights(width_in, width_out, left, right)
  down, unit_down = graft.weights(height_in, height_out, top, bottom)
  float = Cast<to = {float}>(strip)
  turned = Transpose<perm = [1, 0]>(across)
  sums = MatMul(float, turned)
  narrow = graft.rounded(sums, unit_across)
  sums_down = MatMul(down, narrow)
  square = graft.rounded(sums_down, unit_down)
  prepared = Cast<to = {uint8}>(square)
}}
"""


def build_preprocess_graph(preprocess: Preprocess) -> ModelProto:
    """Build the graph from `image`, uint8 [n, height, width, 3], to `prepared`, uint8 [n, 3, size, size]."""
    words = {
        "ir": IR,
        "opset": OPSET,
        "size": preprocess.size,
        "resize": preprocess.resize,
        "longest": MAX_ASPECT_RATIO,
        "target": _TARGETS[preprocess.crop],
        "kernel": _KERNEL_NODES[preprocess.interpolation],
        "reach": _REACH[preprocess.interpolation],
        "units": ", ".join(str(float(2**bits)) for bits in range(23)),
        **{"float": _FLOAT, "double": _DOUBLE, "int64": _INT64, "uint8": _UINT8},
    }
    model = parser.parse_model(_GRAPH.format(**words))
    model.functions.extend(parser.parse_function(text.format(**words)) for text in (_WEIGHTS, _ROUNDED))
    return inliner.inline_local_functions(model)


def prepend_preprocess(preprocess: Preprocess, network: ModelProto) -> ModelProto:
    """Prepend the preprocessing to a network that takes `prepared`; the result takes `image`."""
    pixels = compose.add_prefix(
        build_preprocess_graph(preprocess), "pixels/", rename_inputs=False, rename_outputs=False
    )
    network.ir_version = pixels.ir_version
    whole = compose.merge_models(pixels, network, [(PREPARED, PREPARED)])
    onnx.checker.check_model(whole)
    return whole
