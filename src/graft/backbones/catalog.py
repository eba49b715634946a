"""Catalogue of networks: all image networks of timm, the few of torchvision that timm lacks, and three of graft.

The facts of each network are in catalog.csv, which `python bench/catalog.py` generates from timm and torchvision, so
that a name is looked up, and a wrong one refused, without importing either. `graft.torch.build` builds the network
of an entry.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, cast

from graft import spec
from graft.errors import UsageError

DEFAULT = "tf_efficientnet_lite0"

# Common names -> names in timm. Names that timm itself has retired are resolved as well.
ALIASES = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
}

NOT_STATED = "not stated"
NOT_NEEDED = "not needed"  # no weights are published

TABLE = Path(__file__).with_name("catalog.csv")
HUB_OWNER = "timm/"  # + name and tag: the repository of nearly all weights on the Hugging Face hub; '=' in the table

Library = Literal["timm", "torchvision", "graft"]


@dataclass(frozen=True)
class CatalogEntry:
    """One network of the catalogue.

    `parameters` and `gmac` (10^9 multiply-adds for one image of `size` pixels) include the classifier, and are None
    where they were not measured; `licence` is that of the pretrained weights, 'not stated' where the source has none.
    The three networks of graft itself have neither a classifier nor pretrained weights.
    """

    name: str
    library: Library
    parameters: int | None
    gmac: float | None
    size: int
    licence: str


@dataclass(frozen=True)
class CatalogRow:
    """One row of the table, as text. There are three kinds:

    a name that timm has retired: `now` is the present name;
    a network: `tag` is that of its default weights, whose row has the facts; '' where this row has them;
    a network and tag: the facts of these weights.
    """

    name: str
    library: str
    now: str = ""
    tag: str = ""
    parameters: str = ""
    gmac: str = ""
    size: str = ""  # 224, or 1024x768: height and width
    resize: str = ""
    interpolation: str = ""
    crop: str = ""
    mean: str = ""
    std: str = ""
    classes: str = ""
    classifier: str = ""  # prefixes of the names of its tensors
    licence: str = ""
    hub: str = ""  # owner/repository, may end in @revision
    url: str = ""


def list_names() -> list[str]:
    """Return the names of all networks, sorted; a timm name also takes a tag of weights: `resnet50.a1_in1k`."""
    return [name for name in _all_names() if "." not in name]


def search(filter: str = "*") -> Iterator[CatalogEntry]:
    """Yield the networks whose name or alias matches a pattern such as `resnet*`, or contains the text.

    A pattern with a dot is also matched with the tags of weights: `vit_small*.*dino*`.
    """
    pattern = filter if any(mark in filter for mark in "*?[") else f"*{filter}*"
    others = {target: alias for alias, target in ALIASES.items()}
    for name in _all_names() if "." in pattern else list_names():
        if fnmatchcase(name, pattern) or fnmatchcase(others.get(name, name), pattern):
            yield _entry(name)


def find_entry(name: str) -> CatalogEntry:
    """Return the entry of a network, by its name, its name and tag, or an alias. Raises UsageError."""
    name = ALIASES.get(name) or (name in _table() and _table()[name].now) or name
    if name not in _table():
        near = spec.format_suggestions(name, [*(_all_names() if "." in name else list_names()), *ALIASES])
        raise UsageError(f"There is no network '{name}'.{near} `graft backbones` lists all.")
    if not _is_square(name):
        height, width = _facts_row(name).size.split("x")
        raise UsageError(f"Network '{name}' takes images of {width} x {height} pixels; graft makes square ones only.")
    return _entry(name)


def is_known(name: str) -> bool:
    """Return whether there is a network of this name."""
    try:
        find_entry(name)
    except UsageError:
        return False
    return True


def build_preprocess(entry: CatalogEntry) -> Any:
    """Return the graft.backbones.preprocess.Preprocess of the weights of this network."""
    from graft.backbones.preprocess import Preprocess  # imports numpy, which takes longer than refusing a wrong name

    row = _facts_row(entry.name)
    return Preprocess(
        size=int(row.size),
        resize=int(row.resize),
        interpolation=cast(Literal["bicubic", "bilinear"], row.interpolation),
        crop=cast(Literal["center", "squash"], row.crop),
        mean=_parse_triple(row.mean),
        std=_parse_triple(row.std),
    )


def classifier_prefixes(entry: CatalogEntry) -> tuple[str, ...]:
    """Return the prefixes of the names of the classifier's tensors."""
    return tuple(f"{each}." for each in _facts_row(entry.name).classifier.split())


def repository(entry: CatalogEntry) -> str:
    """Return the repository of the weights on the Hugging Face hub, '' if there is none; may end in @revision."""
    row = _facts_row(entry.name)
    return f"{HUB_OWNER}{row.name}" if row.hub == "=" else row.hub


def url(entry: CatalogEntry) -> str:
    """Return the URL of the weights in torchvision, or in timm for older networks; '' if there is none."""
    return _facts_row(entry.name).url


def _entry(name: str) -> CatalogEntry:
    row, default = _facts_row(name), _facts_row(name.partition(".")[0])
    # Measured with the default weights: others may have another input, or a classifier of another size.
    same = (row.size, row.classes) == (default.size, default.classes)
    measured = _table()[name.partition(".")[0]] if same else CatalogRow(name, row.library)
    return CatalogEntry(
        name=name,
        library=cast(Library, row.library),
        parameters=int(measured.parameters) if measured.parameters else None,
        gmac=float(measured.gmac) if measured.gmac else None,
        size=int(row.size),
        licence=row.licence,
    )


def _facts_row(name: str) -> CatalogRow:
    """Return the row with the facts of a network, or of a network and tag."""
    row = _table()[name]
    return _table()[f"{name}.{row.tag}"] if row.tag else row


@functools.cache
def _all_names() -> list[str]:
    """Return all names, without and with a tag, sorted; without retired names and networks of non-square inputs."""
    return sorted(name for name, row in _table().items() if not row.now and _is_square(name))


def _is_square(name: str) -> bool:
    return "x" not in _facts_row(name).size


def _parse_triple(text: str) -> tuple[float, float, float]:
    red, green, blue = map(float, text.split())
    return red, green, blue


@functools.cache
def _table() -> dict[str, CatalogRow]:
    with TABLE.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(line for line in lines if not line.startswith("#"))
        next(rows)  # the header: the fields of CatalogRow
        return {row[0]: CatalogRow(*row) for row in rows}
