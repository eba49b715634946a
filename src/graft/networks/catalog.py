"""Names to networks: every image network of timm, the few of torchvision that timm lacks, and three of our own."""

from __future__ import annotations

import csv
import difflib
import functools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, cast

import timm
import torchvision.models
from timm.models import PretrainedCfg, get_deprecated_models, get_pretrained_cfg
from torch import nn
from torchvision.models import WeightsEnum

from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError
from graft.networks.small import SIZE, SMALL

DEFAULT = "tf_efficientnet_lite0"

# What people call them -> what timm calls them. Names that timm itself has retired are followed as well.
ALIASES = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
}

# Only what timm lacks, with how the names of the classifier's tensors begin.
TORCHVISION = {
    "alexnet": "classifier.6",
    "googlenet": "fc",
    "squeezenet1_0": "classifier",
    "squeezenet1_1": "classifier",
}

NOT_STATED = "not stated"
NOT_NEEDED = "not needed"  # nobody published weights

TABLE = Path(__file__).with_name("catalog.csv")


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue, with what a person wants to know before choosing it.

    `parameters` and `gmac` (10^9 multiply-adds for one picture of `size` pixels) count the classifier in, and are None
    where nobody measured them; `licence` is that of the pretrained weights, 'not stated' where the source says nothing.
    The three networks of graft itself have neither a classifier nor pretrained weights.
    """

    name: str
    library: Literal["timm", "torchvision", "graft"]
    parameters: int | None
    gmac: float | None
    size: int
    licence: str


def names() -> list[str]:
    """All networks by name, sorted; a timm name also takes a tag that says which weights: `resnet50.a1_in1k`."""
    return sorted({*filter(_is_square, timm.list_models()), *TORCHVISION, *SMALL})


def entries(filter: str = "*") -> Iterator[Entry]:
    """The networks whose name, or other name, matches a pattern such as `resnet*`, or contains the text.

    A pattern with a dot also runs over the tags that say which weights: `vit_small*.*dino*`.
    """
    pattern = filter if any(mark in filter for mark in "*?[") else f"*{filter}*"
    others = {target: alias for alias, target in ALIASES.items()}
    for name in sorted({*names(), *_tagged()}) if "." in pattern else names():
        if fnmatchcase(name, pattern) or fnmatchcase(others.get(name, name), pattern):
            yield _entry(name)


def find(name: str) -> Entry:
    """The entry of a network, by its name, its name and tag, or another name for it."""
    name = ALIASES.get(name) or get_deprecated_models().get(name) or name
    if name in TORCHVISION or name in SMALL:
        return _entry(name)
    cfg = facts(name)
    if cfg is None:
        near = difflib.get_close_matches(name, [*names(), *ALIASES, *(_tagged() if "." in name else ())], n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise UsageError(f"There is no network '{name}'.{hint} `graft backbones` lists all.")
    if not _is_square(name):
        height, width = cfg.input_size[1:]
        raise UsageError(f"Network '{name}' takes pictures of {width} x {height} pixels; graft makes square ones only.")
    return _entry(name)


def known(name: str) -> bool:
    """Whether there is a network of this name."""
    try:
        find(name)
    except UsageError:
        return False
    return True


def facts(name: str) -> PretrainedCfg | None:
    """What timm says of a network and its weights; None if it has no network, or no weights, of this name."""
    try:
        return _facts(name) if timm.is_model(name) else None
    except RuntimeError:  # a known network with an unknown tag
        return None


def published(name: str) -> WeightsEnum:
    """The weights that torchvision offers for one of its networks, the best first."""
    return cast(WeightsEnum, next(iter(torchvision.models.get_model_weights(name))))


def build(entry: Entry) -> nn.Module:
    """The whole network with its ImageNet classifier, if it has one; random weights, ready to predict."""
    if entry.library == "graft":
        return SMALL[entry.name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old layers, slow initialisation: nothing that our user could change
        if entry.library == "timm":
            return timm.create_model(entry.name, pretrained=False).eval()
        return _build_torchvision(entry.name).eval()


def headless(entry: Entry, network: nn.Module) -> nn.Module:
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


def classifier_names(entry: Entry) -> tuple[str, ...]:
    """How the names of the tensors begin that `headless` takes away."""
    if entry.library == "graft":
        return ()
    named = TORCHVISION[entry.name] if entry.library == "torchvision" else _facts(entry.name).classifier
    return tuple(f"{each}." for each in ([named] if isinstance(named, str) else named or ()))


def preprocess(entry: Entry) -> Preprocess:
    """What the weights of this network expect of a picture."""
    if entry.library == "torchvision":
        return _preprocess_torchvision(entry.name)
    if entry.library == "graft":
        return Preprocess(SIZE, SIZE, "bilinear", "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    cfg = _facts(entry.name)
    return Preprocess(
        size=entry.size,
        resize=max(entry.size, math.floor(entry.size / cfg.crop_pct)),  # VOLO has crop_pct 1.15: it would crop air
        interpolation="bilinear" if cfg.interpolation == "bilinear" else "bicubic",
        # 'border' (six networks) fits the whole picture in and pads it. We crop instead: padding shows the network
        # bars that its training never showed, and with crop_pct near 1 the crop loses nothing but the long side's ends.
        crop="squash" if cfg.crop_mode == "squash" else "center",
        mean=_three(cfg.mean),
        std=_three(cfg.std),
    )


def _preprocess_torchvision(name: str) -> Preprocess:
    transforms = published(name).transforms()
    return Preprocess(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=_three(transforms.mean),
        std=_three(transforms.std),
    )


def _three(values: tuple[float, ...] | list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _build_torchvision(name: str) -> nn.Module:
    if name == "googlenet":  # as its pretrained version: inputs rescaled inside, no auxiliary classifiers
        return torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    return torchvision.models.get_model(name, weights=None)


def _facts(name: str) -> PretrainedCfg:
    return cast(PretrainedCfg, get_pretrained_cfg(name, allow_unregistered=False))


def _entry(name: str) -> Entry:
    if name in TORCHVISION:
        size = _preprocess_torchvision(name).size
        return Entry(name, "torchvision", *_measured(name, size), size, NOT_STATED)
    if name in SMALL:
        return Entry(name, "graft", *_measured(name, SIZE), SIZE, NOT_NEEDED)
    cfg = _facts(name)
    architecture, size = name.partition(".")[0], cfg.input_size[-1]
    # Measured with the default weights: others may have another input, or a classifier of another size.
    same = cfg.num_classes == _facts(architecture).num_classes
    parameters, gmac = _measured(architecture, size) if same else (None, None)
    licence = NOT_STATED if cfg.license in (None, "unknown") else cfg.license
    return Entry(name, "timm", parameters, gmac, size, licence)


def _measured(name: str, size: int) -> tuple[int | None, float | None]:
    parameters, gmac, measured_at = _table().get(name, ("", "", ""))
    if measured_at != str(size):
        return None, None
    return int(parameters) if parameters else None, float(gmac) if gmac else None


@functools.cache
def _table() -> dict[str, tuple[str, str, str]]:
    """name -> parameters, gmac, size; written by `python bench/catalog.py`."""
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        return {row["name"]: (row["parameters"], row["gmac"], row["size"]) for row in rows}


def _tagged() -> list[str]:
    return [name for name in timm.list_pretrained() if _is_square(name)]


def _is_square(name: str) -> bool:
    _, height, width = _facts(name).input_size
    return height == width
