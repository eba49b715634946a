"""A classifier as a program of torch.export (.pt2): what PyTorch runs without graft, timm or the network's code."""

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

from graft.model.classifier import Classifier
from graft.torch.alone import alone
from graft.torch.answering import Answering
from graft.torch.normalise import prepared_batch
from graft_runtime import contract
from graft_runtime.contract import CARD, EXPORT, Export, Witness

RUNTIME = f"torch {torch.__version__}"  # with the build, such as +cpu
EXAMPLE = (2, 60, 80, 3)  # pictures to follow; the file keeps them
Run = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]  # pixels [n, height, width, 3] to outputs by name


class Program(nn.Module):
    """uint8 pictures [n, height, width, 3] to all answers, named as the outputs of an ONNX file."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess = classifier.network.preprocess
        answering = Answering(classifier)
        self.outputs = answering.outputs
        self.answering = answering if classifier.network.features.top else _graph(answering, self.preprocess.size)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        said = self.answering(prepared_batch(self.preprocess, image))
        return dict(zip(self.outputs, said, strict=True))


def _graph(answering: Answering, side: int) -> nn.Module:
    """The same module as a graph: torch.export loses its place in a forward pass that is stopped half-way.

    Early features stop one. The weights are those of the module, as constants of the graph.
    """
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    return make_fx(answering.eval().cpu(), tracing_mode="symbolic", _allow_non_fake_inputs=True)(example)


def made(classifier: Classifier) -> tuple[tuple[str, ...], Callable[..., bytes]]:
    """The names of the outputs, and the file by its description. Raises whatever torch.export does."""
    # A copy, since on its way through the pictures the classifier's own weights are laid out anew.
    module = copy.deepcopy(Program(classifier)).eval().cpu()
    free = dict.fromkeys(range(3), Dim.DYNAMIC)
    example = torch.zeros(EXAMPLE, dtype=torch.uint8)
    with alone(), warnings.catch_warnings():
        # A GRU lays its weights out in a list of its own on the way; they are those of the program all the same.
        warnings.filterwarnings("ignore", r"The tensor attributes? self\.answering", UserWarning)
        program = torch.export.export(module, (example,), dynamic_shapes=(free,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files and folders of this machine
    for name, tensor in list(program.state_dict.items()):
        # Of what lies scattered, or in a larger memory, torch would save all around it.
        if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
            plain = tensor.detach().clone(memory_format=torch.contiguous_format)
            program.state_dict[name] = nn.Parameter(plain, False) if isinstance(tensor, nn.Parameter) else plain
    return module.outputs, partial(_saved, program, classifier)


def _saved(program: ExportedProgram, classifier: Classifier, export: Export, evidence: Sequence[Witness] = ()) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=contract.texts(classifier.card, export, evidence))
    return file.getvalue()


def opened(content: bytes) -> tuple[Run, dict[str, Any]]:
    """The file at work, and its texts."""
    texts: dict[str, Any] = {CARD: "", EXPORT: ""}  # filled in by torch
    program = torch.export.load(io.BytesIO(content), extra_files=texts).module()

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        with torch.inference_mode():
            found = program(torch.from_numpy(np.require(images, requirements="W")))  # torch warns of others
        return {name: tensor.numpy() for name, tensor in found.items()}

    return run, texts
