"""Preprocessing of images as the pretrained weights expect: in NumPy, and as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import MAX_ASPECT_RATIO

Interpolation = Literal["bicubic", "bilinear"]
Span = tuple[int, int]  # the first, and the one after the last

MIDDLE = 128  # subtracted from pixels, so that sums stay small enough for exact float32
BLOCK_SIZE = 16  # rows or columns of the result in one product; a wider block multiplies more zeros
STRIP_PIXELS = 1 << 16  # pixels that are converted to floats at a time, so that these stay in the processor's cache
# Multiplications up to which OpenBLAS runs a product in the calling thread: images are processed in parallel already.
SINGLE_THREAD_OPS = 1 << 18
FLOAT32_EXACT_MAX = 2**24  # up to which float32 holds all whole numbers
KERNEL_RADIUS = {"bilinear": 1, "bicubic": 2}
WEIGHT_BITS = 15  # of the largest weight
MAX_WEIGHT_BITS = 22
PASS_CACHE_SIZE = 256  # passes whose weights are cached; images of one camera are of few sizes

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise images as in the training of the weights.

    `resize` is the short side in pixels before the centre crop of `size`; `mean` and `std` are on the scale 0 to 1.
    The resize is torch's antialiased interpolation on uint8, which rounds like Pillow's, computed without torch.

    >>> Preprocess(size=224, resize=256).prepare(np.zeros((300, 400, 3), np.uint8)).shape
    (3, 224, 224)
    """

    size: int = 224
    resize: int = 256
    interpolation: Interpolation = "bicubic"
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def decode_size(self) -> int:
        """The short side, in pixels, at which decoding loses nothing visible after the resize."""
        return 2 * self.resize

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright image [height, width, 3] as the network input, uint8 [3, size, size]."""
        height, width = image.shape[:2]
        short = min(height, width)
        image = _crop_centre(image, min(height, MAX_ASPECT_RATIO * short), min(width, MAX_ASPECT_RATIO * short))
        target = self._resized_shape(*image.shape[:2])
        top, left = (round((side - self.size) / 2) for side in target)
        rows, columns = (top, top + self.size), (left, left + self.size)
        return resize_image(image, target, rows, columns, self.interpolation)

    def prepare_crop(self, image: NDArray[np.uint8], box: Box, flip: bool) -> NDArray[np.uint8]:
        """Return a crop of the image, resized to uint8 [3, size, size] and mirrored if `flip`."""
        left, top, width, height = box
        part, whole = image[top : top + height, left : left + width], (0, self.size)
        crop = resize_image(part, (self.size, self.size), whole, whole, self.interpolation)
        return crop[:, :, ::-1].copy() if flip else crop  # a copy, as torch does not support negative strides

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        if self.crop == "squash":
            return self.resize, self.resize
        short = min(height, width)
        return max(self.resize, self.resize * height // short), max(self.resize, self.resize * width // short)


def _crop_centre(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


# --- Resize -----------------------------------------------------------------------------------------------------------


def resize_image(
    image: NDArray[np.uint8], size: tuple[int, int], rows: Span, columns: Span, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """Resize an image [height, width, 3] to `size` (height, width); return these rows and columns, uint8 [3, ...].

    >>> resize_image(np.full((5, 7, 3), 9, np.uint8), (4, 4), (1, 3), (0, 4), "bicubic").shape
    (3, 2, 4)
    """
    down = _plan_pass(image.shape[0], size[0], *rows, interpolation)
    across = _plan_pass(image.shape[1], size[1], *columns, interpolation)
    narrow = _resize_width(image[down.first : down.last, across.first : across.last], across, down.dtype)
    return _resize_height(narrow, down)


@dataclass(frozen=True, eq=False)
class _Block:
    """Neighbouring output positions, and the weights of their input pixels."""

    output_slice: slice
    input_slice: slice
    weights: NDArray[np.floating[Any]]  # [positions, pixels], over the power of two that makes them whole


@dataclass(frozen=True, eq=False)
class _Pass:
    """The resize along one axis: output positions in blocks, and the bias that makes truncation round."""

    first: int  # range of input pixels needed; blocks count from `first`
    last: int
    blocks: Sequence[_Block]
    bias: NDArray[np.floating[Any]]  # for a result of 0..255

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.bias.dtype


def _resize_width(image: NDArray[np.uint8], across: _Pass, kind: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Resize each row; return [3, height, positions], still less MIDDLE."""
    height, width = image.shape[:2]
    made = np.empty((3, height, len(across.bias)), kind)
    step = max(
        1, min(height, STRIP_PIXELS // width, SINGLE_THREAD_OPS // (BLOCK_SIZE * max(map(_input_count, across.blocks))))
    )
    for top in range(0, height, step):
        part = image[top : top + step] ^ MIDDLE
        strip = np.empty((3, *part.shape[:2]), across.dtype)
        strip[...] = part.view(np.int8).transpose(2, 0, 1)
        sums = np.empty((*strip.shape[:2], len(across.bias)), across.dtype)
        for block in across.blocks:
            np.matmul(strip[:, :, block.input_slice], block.weights.T, out=sums[:, :, block.output_slice])
        sums += across.bias
        np.clip(sums, 0, 255, out=sums)
        np.floor(sums, out=sums)
        np.subtract(sums, MIDDLE, out=made[:, top : top + step])
    return made


def _resize_height(narrow: NDArray[np.floating[Any]], down: _Pass) -> NDArray[np.uint8]:
    """Resize each column; return uint8 [3, positions, width]."""
    sums = np.empty((3, len(down.bias), narrow.shape[2]), down.dtype)
    step = max(1, SINGLE_THREAD_OPS // (BLOCK_SIZE * max(map(_input_count, down.blocks))))
    for block in down.blocks:
        for left in range(0, narrow.shape[2], step):
            columns = slice(left, left + step)
            np.matmul(block.weights, narrow[:, block.input_slice, columns], out=sums[:, block.output_slice, columns])
    sums += down.bias[:, None]
    np.clip(sums, 0, 255, out=sums)
    return sums.astype(np.uint8)  # truncates


def _input_count(block: _Block) -> int:
    return block.weights.shape[1]


@lru_cache(PASS_CACHE_SIZE)
def _plan_pass(length: int, size: int, start: int, end: int, interpolation: Interpolation) -> _Pass:
    """Plan the resize of `length` pixels to `size`, for the positions from `start` to `end`."""
    firsts, whole, unit = _weights(length, size, start, end, interpolation)
    lasts = np.minimum(firsts + whole.shape[1], length)
    first, last = int(firsts[0]), int(lasts.max())
    added = MIDDLE * whole.sum(1) + unit / 2  # adds back what was subtracted from the pixels, and half a unit to round
    largest = MIDDLE * np.abs(whole).sum(1) + np.abs(added - MIDDLE * unit)
    kind = np.dtype(np.float32 if largest.max() <= FLOAT32_EXACT_MAX else np.float64)
    lows, highs = firsts[::BLOCK_SIZE], np.maximum.reduceat(lasts, np.arange(0, len(lasts), BLOCK_SIZE))
    weights = np.zeros((len(firsts), int((highs - lows).max()) + whole.shape[1]), kind)  # taps beyond the image are 0
    places = (firsts - lows.repeat(BLOCK_SIZE)[: len(firsts)])[:, None] + np.arange(whole.shape[1])
    np.put_along_axis(weights, places, (whole / unit).astype(kind), 1)
    blocks = []
    for top, low, high in zip(range(0, len(firsts), BLOCK_SIZE), lows.tolist(), highs.tolist(), strict=True):
        made = slice(top, min(top + BLOCK_SIZE, len(firsts)))
        blocks.append(_Block(made, slice(low - first, high - first), weights[made, : high - low]))
    return _Pass(first, last, tuple(blocks), (added / unit).astype(kind))


def _weights(
    length: int, size: int, start: int, end: int, interpolation: Interpolation
) -> tuple[NDArray[np.intp], NDArray[np.float64], float]:
    """Return the first pixel of each position, the integer weights from there on, and the unit that scales them.

    Computed as torch does, in the same order. The unit depends on the largest weight of all positions of `size`.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    support = KERNEL_RADIUS[interpolation] * stretch
    centres = scale * (np.arange(size) + 0.5)
    firsts = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    ends = np.minimum((centres + support + 0.5).astype(np.intp), length)
    taps = np.arange(int((ends - firsts).max()))
    distances = np.abs((taps + (firsts - centres)[:, None] + 0.5) * (1 / stretch))
    values = np.where(taps < (ends - firsts)[:, None], _KERNELS[interpolation](distances), 0.0)
    values /= np.cumsum(values, axis=1)[:, -1:]
    largest = values.max()
    units = 2.0 ** np.arange(MAX_WEIGHT_BITS + 1)
    unit = float(units[units * largest + 0.5 < 2**WEIGHT_BITS].max(initial=1.0))
    scaled = values[start:end] * unit
    return firsts[start:end], np.trunc(scaled + np.copysign(0.5, scaled)), unit


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic}


# --- the same as an ONNX graph ----------------------------------------------------------------------------------------

IMAGE, PREPARED = "image", "prepared"
OPSET = 20  # the newest that torch's tracing exporter writes
IR = 10  # IR version of the file: that of opset 21, which every runtime of the last two years reads

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


def build_preprocess_graph(preprocess: Preprocess) -> Any:
    """Build the onnx.ModelProto from `image`, uint8 [n, height, width, 3], to `prepared`, uint8 [n, 3, size, size]."""
    from onnx import inliner, parser  # here and below, as whoever only predicts needs no onnx

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


def prepend_preprocess(preprocess: Preprocess, network: Any) -> Any:
    """Prepend the preprocessing to an onnx.ModelProto that takes `prepared`; the result takes `image`."""
    from onnx import checker, compose

    pixels = compose.add_prefix(
        build_preprocess_graph(preprocess), "pixels/", rename_inputs=False, rename_outputs=False
    )
    network.ir_version = pixels.ir_version
    whole = compose.merge_models(pixels, network, [(PREPARED, PREPARED)])
    checker.check_model(whole)
    return whole
