"""The strategy `direct`: a pretrained network with its own classes, its published classifier as the head."""

from __future__ import annotations

import difflib
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from graft.backbones import catalog, weights
from graft.backbones.backbone import Backbone as Pretrained
from graft.backbones.catalog import CatalogEntry
from graft.errors import DataError, UsageError, WeightsError
from graft.model.network import Network
from graft.torch import build
from graft.torch.build import load_weights
from graft.torch.head import HeadModule
from graft.torch.network import BackboneModule, FeaturesModule, NetworkModule, normalise
from graft.torch.restore import module_to_network

TOLERANCE = 1e-4  # of the difference between two images' logits; float32 leaves about 1e-6


def load_published(
    name: str = catalog.DEFAULT, file: Path | None = None, offline: bool = False
) -> tuple[Network, tuple[str, ...], Pretrained]:
    """(network, its class names, its backbone): the whole network as published, its last layer as the head.

    Raises UsageError for a network whose classifier is not one linear layer on its features, and WeightsError for
    weights without a classifier, or with one for other classes.
    """
    entry = catalog.find_entry(name)
    source = weights.locate(entry, file, offline)
    whole = build.build_network(entry)
    before = {name: tensor.clone() for name, tensor in _classifier_tensors(entry, whole).items()}
    source = load_weights(entry, whole, source)
    _check_classifier_loaded(entry, before, _classifier_tensors(entry, whole), source.path)
    backbone = BackboneModule(entry, whole.eval().requires_grad_(False), catalog.build_preprocess(entry), source)
    images = (backbone.example_images() * 40 + 128).clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        want = whole(normalise(backbone.preprocess, images))
    layer = _find_classifier_layer(entry, whole)
    build.remove_classifier(entry, whole)  # in place: from here on the backbone has no classifier
    network = _build_network(backbone, layer)
    if network is None or not _is_close(network, images, want):
        raise UsageError(
            f"'{entry.name}' cannot be used directly: its classifier is not one linear layer on its pooled features. "
            f"That of most networks is, for instance {catalog.DEFAULT}, resnet50 and vit_base_patch16_224; "
            "this one can be trained with every other strategy."
        )
    graph_network = module_to_network(network)
    found = Pretrained(entry, graph_network.features.graph, backbone.preprocess, source)
    return graph_network, list_class_names(network.head.spec["classes"]), found


def list_class_names(count: int) -> tuple[str, ...]:
    """The names of the classes of a network that has so many: ImageNet's where it is one of ImageNet's numbers.

    The first of WordNet's synonyms, with the WordNet id where two classes share it; else `class 0`, `class 1`, ...
    """
    if not infer_imagenet_subset({"num_classes": count}):
        return tuple(f"class {index}" for index in range(count))
    firsts = [words[0] for _, words in _synonyms(count)]
    shared = Counter(map(_normalise_name, firsts))
    ids = [wordnet for wordnet, _ in _synonyms(count)]
    return tuple(
        f"{first} ({wordnet})" if shared[_normalise_name(first)] > 1 else first
        for first, wordnet in zip(firsts, ids, strict=True)
    )


def match_class_names(names: Sequence[str], classes: tuple[str, ...]) -> dict[str, int]:
    """Which of the network's classes each name means: by name, WordNet id (n01440764), or one of WordNet's synonyms.

    Capitals, hyphens and underscores make no difference. Raises DataError, with the nearest names, for a name that
    means no class, or several.
    """
    ranks = _build_name_lookups(classes)
    found = {
        name: next((rank[_normalise_name(name)] for rank in ranks if _normalise_name(name) in rank), set())
        for name in names
    }
    faults = [_describe_fault(name, meant, classes, ranks) for name, meant in found.items() if len(meant) != 1]
    if faults:
        more = f" And {len(faults) - 10} more." if len(faults) > 10 else ""
        raise DataError(
            f"{len(faults)} of {len(found)} names mean none, or several, of the network's {len(classes)} classes: "
            f"{'; '.join(faults[:10])}.{more} Rename these folders or leave them out; "
            "to teach the network new classes choose another strategy."
        )
    return {name: min(meant) for name, meant in found.items()}


def _classifier_tensors(entry: CatalogEntry, network: nn.Module) -> dict[str, Tensor]:
    prefixes = catalog.classifier_prefixes(entry)
    return {name: tensor for name, tensor in network.state_dict().items() if name.startswith(prefixes)}


def _check_classifier_loaded(
    entry: CatalogEntry, before: dict[str, Tensor], after: dict[str, Tensor], path: Path | None
) -> None:
    """`load_weights` leaves the random classifier of a fresh network as it is where the file has no such one."""
    untouched = [name for name in before if torch.equal(before[name], after[name])]
    if untouched or not before:
        raise WeightsError(
            f"{path} cannot be used directly: it holds no classifier for the classes of '{entry.name}', "
            "or one for another number of classes. Every other strategy can use it."
        )


def _find_classifier_layer(entry: CatalogEntry, whole: nn.Module) -> nn.Module | None:
    """The layer that gives the logits, None where there are several."""
    names = [name.removesuffix(".") for name in catalog.classifier_prefixes(entry)]
    return whole.get_submodule(names[0]) if len(names) == 1 else None


def _build_network(backbone: BackboneModule, layer: nn.Module | None) -> NetworkModule | None:
    """The backbone with the layer as its head; None where it is not linear, or takes another number of features."""
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.weight[0].numel() != features.width:
        return None
    head = HeadModule({"kind": "linear", "width": features.width, "classes": len(layer.weight)})
    tensors = {"judge.weight": layer.weight.flatten(1)}
    tensors["judge.bias"] = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    head.load_state_dict(head.state_dict() | tensors)
    return NetworkModule(features, head).eval().requires_grad_(False)


@torch.no_grad()
def _is_close(network: NetworkModule, images: Tensor, want: Tensor) -> bool:
    """Whether the network gives the logits of the whole one, judged by how much those of two images differ."""
    return bool((want - network(images)).abs().max() <= TOLERANCE * (want[0] - want[1]).abs().max())


@functools.cache
def _synonyms(count: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(WordNet id, names) of each class of the ImageNet set that has so many classes."""
    info = ImageNetInfo(str(infer_imagenet_subset({"num_classes": count})))
    return tuple((each, tuple(info.label_name_to_description(each).split(", "))) for each in info.label_names())


def _build_name_lookups(classes: tuple[str, ...]) -> list[dict[str, set[int]]]:
    """What each plain name means: as the classes are called, else by WordNet id, else by any synonym.

    A name counts where it comes first: `missile` is a class, though `projectile, missile` is another.
    """
    ranks: list[dict[str, set[int]]] = [defaultdict(set) for _ in range(3)]
    for index, words in enumerate(_iterate_class_words(classes)):
        for rank, group in zip(ranks, words, strict=True):
            for word in group:
                rank[_normalise_name(word)].add(index)
    return ranks


def _iterate_class_words(classes: tuple[str, ...]) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """For each class its own name, its WordNet id, and its synonyms; the latter two for ImageNet's classes only."""
    imagenet = infer_imagenet_subset({"num_classes": len(classes)}) and classes == list_class_names(len(classes))
    known = _synonyms(len(classes)) if imagenet else (None,) * len(classes)
    for name, entry in zip(classes, known, strict=True):
        yield [name], [entry[0]] if entry else [], list(entry[1]) if entry else []


def _normalise_name(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _describe_fault(name: str, meant: set[int], classes: tuple[str, ...], ranks: list[dict[str, set[int]]]) -> str:
    if meant:
        return f"{name!r} could be {' or '.join(repr(classes[index]) for index in sorted(meant))}"
    near = difflib.get_close_matches(_normalise_name(name), {word for rank in ranks for word in rank}, n=3, cutoff=0.7)
    return f"{name!r}" + (f" (near: {', '.join(near)})" if near else "")
