"""Export a classifier with torch.export (.pt2), to run in PyTorch without graft, timm or the network's code."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from graft.metrics.unknown import NEIGHBOURS, KnownImages
from graft.model.classifier import Classifier
from graft.torch.alone import hold_torch_lock
from graft.torch.network import (
    MapLayer,
    NetworkModule,
    ReferenceFeatures,
    as_map,
    collect_outputs,
    find_map_layer,
    prepare_batch,
)
from graft.torch.restore import network_to_module
from graft_runtime import contract
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import (
    CARD,
    EXPORT,
    HEAT,
    LOGITS,
    MAP,
    NEAREST,
    PROBABILITIES,
    SIMILARITY,
    UNKNOWN,
    Export,
    TrainingImage,
)


class ClassifierModule(nn.Module):
    """uint8 images [n, 3, size, size] to what `outputs` names, in that order.

    The same as `Classifier` works out with numpy: probabilities by temperature, scales and shifts; the score of
    unknown, 0 where the classifier has none; the logits; the last map; where a linear head reads nothing of the last
    layer but the map's average, how much each place speaks for each class; and which stored training images are
    nearest, where there are any.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        network = network_to_module(classifier.network, classifier.card)
        self.reference_features, self.head = (
            ReferenceFeatures(network.features, classifier.reference_layers),
            network.head,
        )
        self.map_layer = find_map_layer(network.features)
        self.calibration = CalibrationModule(classifier.card)
        self.unknown_score = UnknownScoreModule(classifier.memory.known if classifier.memory else None, classifier.card)
        has_saliency = (
            self.map_layer is not None and self.map_layer.is_averaged and network.head.spec["kind"] == "linear"
        )
        self.saliency = SaliencyModule(network, classifier.card) if has_saliency else None
        near = (NEAREST, SIMILARITY) if len(self.unknown_score.stored) else ()
        self.outputs = (
            PROBABILITIES,
            UNKNOWN,
            LOGITS,
            *[MAP] * (self.map_layer is not None),
            *[HEAT] * has_saliency,
            *near,
        )

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        backbone = self.reference_features.features.backbone
        with collect_outputs(backbone, [self.map_layer.name] if self.map_layer else []) as layer_outputs:
            parts, reference = self.reference_features.forward_parts(prepared)
        logits = self.head(torch.cat(parts, dim=1))
        score, *near = self.unknown_score(reference, logits)
        outputs = [self.calibration(logits), score, logits]
        if self.map_layer:
            outputs.append(_select_map(backbone, self.map_layer, layer_outputs))
        if self.saliency:
            outputs.append(self.saliency(outputs[-1]))
        return (*outputs, *near)


class CalibrationModule(nn.Module):
    """Logits to probabilities, as graft_runtime.decide.compute_probabilities."""

    factors: Tensor
    shifts: Tensor

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.multilabel = card.task == MULTILABEL
        scales = torch.tensor(card.scales or [1.0], dtype=torch.float64)
        self.register_buffer("factors", (scales / card.temperature).float())
        self.register_buffer("shifts", torch.tensor(card.shifts or [0.0]))

    def forward(self, logits: Tensor) -> Tensor:
        scaled = logits * self.factors + self.shifts
        return scaled.sigmoid() if self.multilabel else scaled.softmax(dim=1)


class UnknownScoreModule(nn.Module):
    """Reference features [n, w] and logits to the score of unknown [n], as graft.metrics.unknown.

    Where training images are stored, also to the rows of the nearest, int64 [n, k], and their cosines, largest first.
    """

    stored: Tensor

    def __init__(self, known: KnownImages | None, card: Card) -> None:
        super().__init__()
        self.has_known, self.multilabel = known is not None, card.task == MULTILABEL
        self.register_buffer("stored", torch.zeros(0) if known is None else torch.from_numpy(known.features).float())

    def forward(self, reference: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        if not self.has_known:
            return (logits[:, 0] * 0,)
        if not len(self.stored):
            return (-(functional.softplus(logits).sum(dim=1) if self.multilabel else logits.logsumexp(dim=1)),)
        cosines = functional.normalize(reference) @ self.stored.T
        best, which = cosines.topk(min(NEIGHBOURS, len(self.stored)))
        return 1 - best.mean(dim=1), which, best


class SaliencyModule(nn.Module):
    """The last map [n, c, h, w] to saliency maps of all classes, [n, classes, h, w], as graft.model.explain.

    The places add up to what the last layer says for the class's logit, above the mean of all logits where an image
    has one label, but for a constant.
    """

    weight: Tensor

    def __init__(self, network: NetworkModule, card: Card) -> None:
        super().__init__()
        weight = network.head.get_parameter("judge.weight") * network.head.scale
        own = weight[:, -network.features.widths[-1] :]
        self.register_buffer("weight", own if card.task == MULTILABEL else own - own.mean(dim=0))

    def forward(self, last: Tensor) -> Tensor:
        return functional.conv2d(last, self.weight[:, :, None, None]) / (last.shape[2] * last.shape[3])


def _select_map(backbone: nn.Module, map_layer: MapLayer, outputs: dict[str, Tensor]) -> Tensor:
    found = as_map(backbone, outputs[map_layer.name])
    assert found is not None
    return found


# --- torch.export -----------------------------------------------------------------------------------------------------


RUNTIME = f"torch {torch.__version__}"  # with the build, such as +cpu
EXAMPLE_SHAPE = (2, 60, 80, 3)  # images to follow; the file keeps them
ProgramFunction = Callable[
    [NDArray[np.uint8]], Mapping[str, NDArray[Any]]
]  # pixels [n, height, width, 3] to outputs by name


class Program(nn.Module):
    """uint8 images [n, height, width, 3] to all answers, named as the outputs of an ONNX file."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess = classifier.network.preprocess
        answering = ClassifierModule(classifier)
        self.outputs = answering.outputs
        self.answering = answering if classifier.network.features.top else _trace_graph(answering, self.preprocess.size)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.answering(prepare_batch(self.preprocess, image))
        return dict(zip(self.outputs, outputs, strict=True))


def _trace_graph(answering: ClassifierModule, side: int) -> nn.Module:
    """The same module as a graph: torch.export loses its place in a forward pass that is stopped half-way.

    Early features stop one. The weights are those of the module, as constants of the graph.
    """
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    return make_fx(answering.eval().cpu(), tracing_mode="symbolic", _allow_non_fake_inputs=True)(example)


def export_program(classifier: Classifier) -> tuple[tuple[str, ...], Callable[..., bytes]]:
    """The names of the outputs, and the file by its description. Raises whatever torch.export does."""
    # A copy, since on its way through the images the classifier's own weights are laid out anew.
    module = copy.deepcopy(Program(classifier)).eval().cpu()
    dynamic_axes = dict.fromkeys(range(3), Dim.DYNAMIC)
    example = torch.zeros(EXAMPLE_SHAPE, dtype=torch.uint8)
    with hold_torch_lock(), warnings.catch_warnings():
        # A GRU lays its weights out in a list of its own on the way; they are those of the program all the same.
        warnings.filterwarnings("ignore", r"The tensor attributes? self\.answering", UserWarning)
        program = torch.export.export(module, (example,), dynamic_shapes=(dynamic_axes,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files and folders of this machine
    for name, tensor in list(program.state_dict.items()):
        # Of what lies scattered, or in a larger memory, torch would save all around it.
        if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
            plain = tensor.detach().clone(memory_format=torch.contiguous_format)
            program.state_dict[name] = nn.Parameter(plain, False) if isinstance(tensor, nn.Parameter) else plain
    return module.outputs, partial(_write_program, program, classifier)


def _write_program(
    program: ExportedProgram, classifier: Classifier, export: Export, parity_images: Sequence[TrainingImage] = ()
) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=contract.build_properties(classifier.card, export, parity_images))
    return file.getvalue()


def load_program(content: bytes) -> tuple[ProgramFunction, dict[str, Any]]:
    """The file at work, and its texts."""
    texts: dict[str, Any] = {CARD: "", EXPORT: ""}  # filled in by torch
    program = torch.export.load(io.BytesIO(content), extra_files=texts).module()

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        with torch.inference_mode():
            found = program(torch.from_numpy(np.require(images, requirements="W")))  # torch warns of others
        return {name: tensor.numpy() for name, tensor in found.items()}

    return run, texts
