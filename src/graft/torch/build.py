"""Build the module of a catalogue entry, and load pretrained weights into it: all tensors, or none."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision.models
from timm.models import model_entrypoint
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from graft.backbones.catalog import CatalogEntry, classifier_prefixes
from graft.backbones.graph import CONSTANT, Graph
from graft.backbones.weights import WeightsSource, ensure_local, is_packaged
from graft.errors import ModelError, UsageError, WeightsError
from graft.torch.chain import find_blocks
from graft.torch.network import DroppedStage

SIZE = 32  # pixels on a side


def mlp() -> nn.Module:
    """All pixels at once: two dense layers, and no idea that pixels have neighbours."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            dense1=nn.Linear(3 * SIZE * SIZE, 256),
            relu1=nn.ReLU(),
            dense2=nn.Linear(256, 128),
            relu2=nn.ReLU(),
        )
    )


def cnn() -> nn.Module:
    """The network of many a first lesson on convolutions: three of them, two poolings, one dense layer."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 32, 3),  # 30 x 30
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # 15 x 15
            conv2=nn.Conv2d(32, 64, 3),  # 13 x 13
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # 6 x 6
            conv3=nn.Conv2d(64, 64, 3),  # 4 x 4
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            dense=nn.Linear(64 * 4 * 4, 64),
            relu4=nn.ReLU(),
        )
    )


def rnn() -> nn.Module:
    """Reads the rows from top to bottom, and remembers: one recurrent layer."""
    return nn.Sequential(OrderedDict(rows=RowGru(3 * SIZE, 128)))


class RowGru(nn.Module):
    """Images [n, 3, rows, columns] as sequences of rows; gives the last state of a GRU, [n, width]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.gru(images.transpose(1, 2).flatten(2))[1][0]


SMALL: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "mlp": mlp, "rnn": rnn}


# --- the catalogue ----------------------------------------------------------------------------------------------------

# Only what timm lacks, with how the names of the classifier's tensors begin.
TORCHVISION = {
    "alexnet": "classifier.6",
    "googlenet": "fc",
    "squeezenet1_0": "classifier",
    "squeezenet1_1": "classifier",
}


def build_network(entry: CatalogEntry) -> nn.Module:
    """The whole network with its ImageNet classifier, if it has one; random weights, ready to predict.

    Raises UsageError where the installed timm is older than the catalogue, and lacks it.
    """
    if entry.library == "graft":
        return SMALL[entry.name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old layers, slow initialisation: nothing that our user could change
        if entry.library == "timm":
            return _build_timm(entry.name).eval()
        return _build_torchvision(entry.name).eval()


def remove_classifier(entry: CatalogEntry, network: nn.Module) -> nn.Module:
    """The same network, changed in place so that it gives pooled features [n, d] instead of 1000 scores."""
    if entry.library == "graft":
        return network
    if entry.library == "timm":
        network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    elif entry.name == "alexnet":
        cast(nn.Sequential, network.classifier)[6] = nn.Identity()
    elif entry.name == "googlenet":
        network.fc = nn.Identity()
    else:  # SqueezeNet classifies every place of the map, then pools; here it only pools
        network.classifier = nn.AdaptiveAvgPool2d(1)
    return network


def best_torchvision_weights(name: str) -> WeightsEnum:
    """The weights that torchvision offers for one of its networks, the best first."""
    return cast(WeightsEnum, next(iter(torchvision.models.get_model_weights(name))))


def _build_timm(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False)
    except RuntimeError as error:  # what timm raises for a name or a tag that it does not know
        if timm.is_model(name) and "." not in name:
            raise
        raise UsageError(
            f"The installed timm {timm.__version__} has no network '{name}', a newer one has. "
            "Install it with `pip install --upgrade timm`."
        ) from error


def _build_torchvision(name: str) -> nn.Module:
    if name == "googlenet":  # as its pretrained version: inputs rescaled inside, no auxiliary classifiers
        return torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    return torchvision.models.get_model(name, weights=None)


# --- weights ----------------------------------------------------------------------------------------------------------


def drop_stages(backbone: nn.Module, kept: Collection[str]) -> None:
    """Take out, in place, the stages of which not one tensor is among those `kept`, as a file names them."""
    for name in list(find_blocks(backbone)):
        stage = backbone.get_submodule(name)
        if not any(each.startswith(f"{name}.") for each in kept):
            backbone.set_submodule(name, DroppedStage(sum(each.numel() for each in stage.parameters())))


def has_dropped_stages(backbone: nn.Module) -> bool:
    """Whether stages are missing."""
    return any(isinstance(part, DroppedStage) for part in backbone.modules())


# --- reading files ----------------------------------------------------------------------------------------------------

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # second classifiers of GoogLeNet and Inception, for training only
# What timm calls its converters.
TIMM_CONVERTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, whatever its name; code in it is refused, never run."""
    with path.open("rb") as stream:
        start = stream.read(9)
    try:
        if start[8:] == b"{":
            return safetensors.torch.load_file(path)
        if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
            return _extract_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as fault:  # hostile or cut-off bytes make the readers raise anything
        reason = str(fault).strip().partition("\n")[0][:200]
        raise WeightsError(f"Cannot read weights from {path}: {type(fault).__name__}: {reason}") from fault
    kind = " It looks like a web page: was it downloaded from the right address?" if start.lstrip()[:1] == b"<" else ""
    raise WeightsError(f"{path} is neither a safetensors nor a PyTorch file.{kind}")


def _extract_state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors by name: bare, or wrapped as training scripts do, with or without 'module.' before each name."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(each, Tensor) for each in content.values()):
        raise ValueError("it holds something else than tensors by name")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def fill_network(entry: CatalogEntry, network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load the tensors of a file into the network: all that it has and no others, or a WeightsError.

    A classifier for another number of classes, or none, is no fault: graft puts its own in that place.
    """
    own, classifier = network.state_dict(), classifier_prefixes(entry)
    if _backbone_names(tensors, classifier) != _backbone_names(own, classifier):
        tensors = _rename_to_timm(entry, network, tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(AUXILIARY)}
    if _has_other_classes(own, tensors, classifier):
        own, tensors = ({n: t for n, t in each.items() if not n.startswith(classifier)} for each in (own, tensors))
    faults = list(_find_mismatches(own, tensors))
    if faults:
        raise WeightsError(f"{path} does not fit '{entry.name}': {'; '.join(faults)}. Is it of another network?")
    network.load_state_dict(tensors, strict=False)  # strict it was above, apart from the classifier


def _backbone_names(tensors: dict[str, Tensor], classifier: tuple[str, ...]) -> set[str]:
    return {name for name in tensors if not name.startswith((*classifier, *AUXILIARY)) and not _is_counter(name)}


def _is_counter(name: str) -> bool:
    """Whether old files may lack it: torch before 0.4.1 did not count batches, and nothing reads the count."""
    return name.endswith(".num_batches_tracked")


def _rename_to_timm(entry: CatalogEntry, network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names, where timm knows how to turn torchvision's or the authors' into its own."""
    if entry.library != "timm":
        return tensors
    module = sys.modules[model_entrypoint(entry.name.partition(".")[0]).__module__]
    for convert in (getattr(module, name) for name in TIMM_CONVERTERS if hasattr(module, name)):
        knows_model = "model" in inspect.signature(convert).parameters
        try:
            return convert(dict(tensors), network) if knows_model else convert(dict(tensors))
        except Exception:  # written for one kind of file; of this one we can still say what is missing
            return tensors
    return tensors


def _has_other_classes(own: dict[str, Tensor], tensors: dict[str, Tensor], classifier: tuple[str, ...]) -> bool:
    """Whether the classifier of the file is none, or one that differs from ours in the number of classes alone."""
    ours, theirs = ({n: t.shape for n, t in each.items() if n.startswith(classifier)} for each in (own, tensors))
    return ours != theirs and all(ours[name][1:] == theirs[name][1:] for name in ours.keys() & theirs.keys())


def check_tensors(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Raises ValueError unless these are all tensors of a network, of its shapes and kinds, and numbers all of them."""
    if faults := list(_find_mismatches(own, tensors)):
        raise ValueError("; ".join(faults))


def _find_mismatches(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> Iterator[str]:
    yield from _format_names("missing", [name for name in own if name not in tensors and not _is_counter(name)])
    yield from _format_names("unexpected", [name for name in tensors if name not in own])
    odd = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    # Quantised weights have the right names and shapes, and would be silently cast into nonsense.
    both = [name for name in own if name in tensors and not _is_counter(name)]
    whole = [name for name in both if own[name].is_floating_point() != tensors[name].is_floating_point()]
    yield from _format_names("wrong type", [f"{name} {tensors[name].dtype} for {own[name].dtype}" for name in whole])
    yield from _format_names("wrong shape", [f"{n} {list(tensors[n].shape)} for {list(own[n].shape)}" for n in odd])
    yield from _format_names(
        "not a number in", [name for name in both if name not in odd and _has_lost_numbers(own[name], tensors[name])]
    )


def _has_lost_numbers(own: Tensor, given: Tensor) -> bool:
    """Whether there is nan or infinity where a fresh network has a number; on the meta device it has none yet."""
    if not given.is_floating_point() or bool(given.isfinite().all()):
        return False
    return not own.is_meta and not bool((given.isfinite() | ~own.isfinite()).all())


def _format_names(fault: str, names: list[str]) -> Iterator[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    if names:
        yield f"{fault} {', '.join(names[:3])}{more}"


def load_weights(entry: CatalogEntry, network: nn.Module, source: WeightsSource) -> WeightsSource:
    """Fill the network with the weights, all of them, and say what was loaded.

    A classifier for another number of classes, or none, is no fault: graft puts its own in that place.
    """
    source = ensure_local(entry, source)
    assert source.path is not None
    tensors = read_tensors(source.path)
    if is_packaged(entry, source):
        # The package names its tensors otherwise, but holds the same in the same order and shapes.
        tensors = dict(zip(network.state_dict(), tensors.values(), strict=True))
    fill_network(entry, network, tensors, source.path)
    return source


def build_from_graph(entry: CatalogEntry, graph: Graph) -> nn.Module:
    """The network of this entry, without its classifier and what the graph lacks, with the weights of the graph."""
    own = {name: each for name, each in graph.tensors.items() if not name.startswith(CONSTANT)}
    return build_with_tensors(entry, {name: torch.from_numpy(np.array(each)) for name, each in own.items()})


def build_with_tensors(entry: CatalogEntry, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of this entry, without its classifier, with these tensors. Raises ModelError for those of another."""
    with torch.random.fork_rng(devices=[]):  # what is drawn here is thrown away
        backbone = remove_classifier(entry, build_network(entry))
    drop_stages(backbone, list(tensors))
    try:
        check_tensors(backbone.state_dict(), dict(tensors))
    except ValueError as fault:
        raise ModelError(f"The weights are not those of '{entry.name}': {fault}.") from fault
    backbone.load_state_dict(tensors, strict=False)  # strict it was above, but for counters that nobody reads
    return backbone.eval().requires_grad_(False)
