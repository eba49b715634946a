"""Run a network fast, with the outputs of plain PyTorch: compiled, as a graph on a GPU, or folded while it trains."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.func import functional_call

from graft import device as devices
from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import LAST, MAP, POOLED, TOP, Graph, core_count
from graft.backbones.preprocess import Preprocess
from graft.torch.alone import check_device, hold_torch_lock
from graft.torch.build import build_from_graph
from graft.torch.chain import eval_mode
from graft.torch.network import (
    FeaturesModule,
    ForwardStopped,
    as_map,
    collect_outputs,
    find_map_layer,
    normalise,
    pool_output,
    to_feature_map,
)

Module = TypeVar("Module", bound=nn.Module)
Output = TypeVar("Output")

BATCH_CPU = 8  # small batches stay in the processor's cache (bench/README.md has the rates of others)
BATCH_GPU = 128
TOLERANCE = 1e-4  # largest difference to PyTorch, relative to the largest feature
FOLD_TOLERANCE = 1e-3  # the same of a folded network, which differs by 1e-6 or altogether


@runtime_checkable
class CompiledNetwork(Protocol):
    """Runs a network on uint8 [n, 3, size, size], any n: float32 [n, ...]; fastest with multiples of `batch`."""

    batch: int

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def device() -> torch.device:
    """What was chosen (graft.device): unless named, CUDA or Apple's GPU where there is one, else the CPU.

    Raises UsageError where a fork has made it useless.
    """
    if (name := devices.current_device()) == devices.CPU:
        return torch.device(name)
    check_device()
    if name != devices.AUTO:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def move_module_to_device(module: Module) -> Module:
    """The module itself, on the device and with the channels last in memory, which convolutions are faster with.

    Call it before running a network: in another layout the same sums differ in their last bits.
    """
    return module.to(device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def move_batch_to_device(batch: Tensor) -> Tensor:
    """A batch as a module on the device takes it."""
    batch = batch.to(device())
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def compile(module: nn.Module, size: int) -> CompiledNetwork:
    """A function that runs the network on images of `size` pixels, in batches of any length.

    What it runs in depends on the network and the device alone: the two differ in their last bits, and a cached
    feature must not depend on how many images were asked for beside it. It may be called from several threads, whether
    or not they share the network. Raises RuntimeError when memory does not suffice for a single image.
    """
    with hold_torch_lock():
        module = move_module_to_device(module.eval())
        if device().type != "cpu":
            return TorchNetwork(module, BATCH_GPU)
        return _export_to_onnx(module, size) or TorchNetwork(module, BATCH_CPU)


def _run_in_batches(
    runner: TorchNetwork | GpuSession, images: NDArray[np.uint8], run_batch: Callable[[NDArray[np.uint8]], Output]
) -> Iterator[Output]:
    """Yield the outputs of batch after batch; when memory runs out the runner's batch is halved, and stays so."""
    start = 0
    while start < max(len(images), 1):
        try:
            output = run_batch(images[start : start + runner.batch])
        except torch.OutOfMemoryError:
            if runner.batch == 1:
                raise
            runner.batch //= 2
            torch.cuda.empty_cache()
        else:
            yield output
            start += runner.batch


class TorchNetwork:
    """Runs in PyTorch; when memory runs out the batch is halved, and stays so."""

    def __init__(self, module: nn.Module, batch: int) -> None:
        self.module, self.batch = module, batch

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate(list(_run_in_batches(self, images, self._run_batch)))

    def _run_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with hold_torch_lock(), torch.inference_mode():
            return self.module(torch.from_numpy(images).to(device())).float().cpu().numpy()


class OnnxRuntimeNetwork:
    """Runs in ONNX Runtime with a fixed batch; a shorter one is filled up and the filling thrown away.

    With the batch fixed every shape is a constant; else networks with 'same' padding work theirs out for each batch.
    """

    def __init__(self, model: str, batch: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = core_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the decoder
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.batch = batch
        self.input = self.session.get_inputs()[0]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), self.batch)
        return np.concatenate([self._run_batch(images[start : start + self.batch]) for start in starts])

    def _run_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        missing = self.batch - len(images)
        full = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images
        features = np.asarray(self.session.run(None, {self.input.name: full})[0])
        return features[: len(images)]


def _export_to_onnx(module: nn.Module, size: int) -> OnnxRuntimeNetwork | None:
    """The module in ONNX Runtime, or None where it cannot be exported or answers differently."""
    example = torch.randint(0, 256, (BATCH_CPU, 3, size, size), generator=torch.Generator().manual_seed(0))
    example = example.to(torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracing exporter is deprecated; it is many times faster than the new
            with TemporaryDirectory() as folder:
                torch.onnx.export(module, (example,), f"{folder}/frozen.onnx", dynamo=False, opset_version=17)
                session = OnnxRuntimeNetwork(f"{folder}/frozen.onnx", BATCH_CPU)
    except Exception:  # an exporter fails in many ways; PyTorch then does the same work, slower
        return None
    with torch.inference_mode():
        want = module(example).numpy()
    got = session(example.numpy())
    return session if np.abs(got - want).max() <= TOLERANCE * max(np.abs(want).max(), 1e-6) else None


# --- a backbone's graph on a GPU --------------------------------------------------------------------------------------


def move_to_gpu(entry: CatalogEntry, graph: Graph, preprocess: Preprocess) -> Graph:
    """The graph with a module on the GPU in the place of ONNX Runtime; as it is where PyTorch finds no GPU."""
    target = device()
    if target.type == "cpu":
        return graph
    return replace(
        graph, other_runner=GpuSession(build_from_graph(entry, graph), preprocess, target, LAST in graph.shapes)
    )


class GpuSession:
    """Compute a graph's outputs with a module on a device; when memory runs out the batch is halved for good."""

    def __init__(self, module: nn.Module, preprocess: Preprocess, where: torch.device, has_map: bool) -> None:
        self.module = module.to(where, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.preprocess, self.device, self.batch = preprocess, where, BATCH_GPU
        self.map_layer = find_map_layer(FeaturesModule(self.module, preprocess, ())) if has_map else None

    def open(self, outputs: Sequence[str]) -> None:
        """There is nothing to be made ready."""

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs for any number of images, in the order asked for."""
        rows = _run_in_batches(self, images, partial(self._run_batch, outputs=outputs))
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def _run_batch(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        names = {name: self._module_name(name) for name in outputs if name != TOP}
        given = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        top: Tensor | None = None
        with hold_torch_lock(), torch.inference_mode():
            with (
                collect_outputs(self.module, [*names.values()], stop=TOP not in outputs) as parts,
                suppress(ForwardStopped),
            ):
                top = self.module(normalise(self.preprocess, given))
            found = [self._select_output(name, top if name == TOP else parts[names[name]]) for name in outputs]
            return [each.float().cpu().numpy() for each in found]

    def _module_name(self, name: str) -> str:
        """The part of the network whose output it is made of."""
        if name == LAST:
            assert self.map_layer
            return self.map_layer.name
        return name.partition("/")[2]

    def _select_output(self, name: str, output: Tensor | None) -> Tensor:
        assert output is not None
        if name == LAST:
            output = as_map(self.module, output)
            assert output is not None
        return (
            pool_output(output)
            if name.startswith(POOLED)
            else to_feature_map(name, output)
            if name.startswith(MAP)
            else output
        )


# --- while it trains --------------------------------------------------------------------------------------------------


ConvAndNorm = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def fold_batch_norm(module: nn.Module, batch: Tensor) -> Iterator[int]:
    """Run convolutions with the batch norm after them folded in, and yield for how many of them.

    With its statistics frozen, batch norm is a scale and a shift for each channel: scaled weights give the same
    outputs, and the same gradients of the weights, of the scale and of the shift, up to the last bits. `batch` is an
    input of the module, in eval mode; where the folded module answers it otherwise, nothing is folded. No tensor of the
    module changes, nor does its name.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> with fold_batch_norm(network, torch.zeros(1, 3, 8, 8)) as count:
    ...     count
    1
    """
    with torch.no_grad(), eval_mode(module):
        pairs, wanted = _find_pairs(module, batch)
        with ExitStack() as stack:
            _fold_pairs(pairs, stack)
            same = (module(batch) - wanted).abs().max() <= FOLD_TOLERANCE * wanted.abs().max()
            kept = stack.pop_all() if same else ExitStack()
    with kept:
        yield len(pairs) if same else 0


def _find_pairs(module: nn.Module, batch: Tensor) -> tuple[list[ConvAndNorm], Tensor]:
    """Convolutions whose output a batch norm receives as it is, found in one forward pass; with its output."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensors themselves: an id alone may be given again
    pairs: list[ConvAndNorm] = []

    def note_output(part: Any, _inputs: object, output: Tensor) -> None:
        outputs[id(output)] = part, output

    def note_input(part: Any, inputs: tuple[Tensor, ...]) -> None:
        if found := outputs.get(id(inputs[0])):
            pairs.append((found[0], part))

    with ExitStack() as stack:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                stack.callback(part.register_forward_hook(note_output).remove)
            if type(part) in (nn.BatchNorm2d, BatchNormAct2d):
                stack.callback(part.register_forward_pre_hook(note_input).remove)
        wanted = module(batch)
    uses = Counter(part for pair in pairs for part in pair)  # a part of two pairs cannot be folded with both
    return [pair for pair in pairs if max(uses[part] for part in pair) == 1 and _is_worth_folding(*pair)], wanted


def _is_worth_folding(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Not where only the norm is trained: gradients of the weights would be computed for nothing else."""
    return conv.weight.requires_grad or not any(each.requires_grad for each in norm.parameters())


def _fold_pairs(pairs: list[ConvAndNorm], stack: ExitStack) -> None:
    """Give both parts of each pair a forward of their own, until the stack is closed."""
    for conv, norm in pairs:
        for part, forward in ((conv, _FoldedConv(conv, norm)), (norm, _Activation(norm))):
            part.forward = forward
            stack.callback(part.__dict__.pop, "forward")


class _FoldedConv:
    """The forward of a convolution with the scale and the shift of a batch norm."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, input: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
        shift = shift * scale if norm.bias is None else shift * scale + norm.bias
        folded = {"weight": conv.weight * scale.view(-1, 1, 1, 1), "bias": shift}
        own = conv.__dict__.pop("forward")
        try:
            return functional_call(conv, folded, (input,))
        finally:
            conv.forward = own


class _Activation:
    """What is left of a batch norm that is folded: timm's has an activation in it."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm

    def __call__(self, input: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, BatchNormAct2d):
            return input
        for part in (norm.drop, norm.act):
            assert isinstance(part, nn.Module)
            input = part(input)
        return input
