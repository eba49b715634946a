"""Names to networks: every image network of timm, the few of torchvision that timm lacks, and three of our own.

All that is known of a network without building it stands in catalog.csv, which `python bench/catalog.py` writes from
what timm and torchvision say: so a name is looked up, and a wrong one refused, without importing either.
`graft.torch.build` makes the network of an entry.
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

# What people call them -> what timm calls them. Names that timm itself has retired are followed as well.
ALIASES = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
}

NOT_STATED = "not stated"
NOT_NEEDED = "not needed"  # nobody published weights

TABLE = Path(__file__).with_name("catalog.csv")
HUB = "timm/"  # + name and tag: where nearly all weights are on the Hugging Face hub; '=' in the table

Library = Literal["timm", "torchvision", "graft"]


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue, with what a person wants to know before choosing it.

    `parameters` and `gmac` (10^9 multiply-adds for one image of `size` pixels) count the classifier in, and are None
    where nobody measured them; `licence` is that of the pretrained weights, 'not stated' where the source says nothing.
    The three networks of graft itself have neither a classifier nor pretrained weights.
    """

    name: str
    library: Library
    parameters: int | None
    gmac: float | None
    size: int
    licence: str


@dataclass(frozen=True)
class Row:
    """One line of the table, as text. One kind of line for each kind of name:

    a name that timm has retired: `now` is what it calls the network today;
    a network: `tag` are its default weights, whose line has the facts; '' where they stand in this line itself;
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
    classifier: str = ""  # how the names of its tensors begin
    licence: str = ""
    hub: str = ""  # owner/repository, may end in @revision
    url: str = ""


def names() -> list[str]:
    """All networks by name, sorted; a timm name also takes a tag that says which weights: `resnet50.a1_in1k`."""
    return [name for name in _listed() if "." not in name]


def entries(filter: str = "*") -> Iterator[Entry]:
    """The networks whose name, or other name, matches a pattern such as `resnet*`, or contains the text.

    A pattern with a dot also runs over the tags that say which weights: `vit_small*.*dino*`.
    """
    pattern = filter if any(mark in filter for mark in "*?[") else f"*{filter}*"
    others = {target: alias for alias, target in ALIASES.items()}
    for name in _listed() if "." in pattern else names():
        if fnmatchcase(name, pattern) or fnmatchcase(others.get(name, name), pattern):
            yield _entry(name)


def find(name: str) -> Entry:
    """The entry of a network, by its name, its name and tag, or another name for it."""
    name = ALIASES.get(name) or (name in _table() and _table()[name].now) or name
    if name not in _table():
        near = spec.meant(name, [*(_listed() if "." in name else names()), *ALIASES])
        raise UsageError(f"There is no network '{name}'.{near} `graft backbones` lists all.")
    if not _is_square(name):
        height, width = _facts(name).size.split("x")
        raise UsageError(f"Network '{name}' takes images of {width} x {height} pixels; graft makes square ones only.")
    return _entry(name)


def known(name: str) -> bool:
    """Whether there is a network of this name."""
    try:
        find(name)
    except UsageError:
        return False
    return True


def preprocess(entry: Entry) -> Any:
    """What the weights of this network expect of an image: a graft.backbones.preprocess.Preprocess."""
    from graft.backbones.preprocess import Preprocess  # needs numpy, which takes longer than to refuse a wrong name

    row = _facts(entry.name)
    return Preprocess(
        size=int(row.size),
        resize=int(row.resize),
        interpolation=cast(Literal["bicubic", "bilinear"], row.interpolation),
        crop=cast(Literal["center", "squash"], row.crop),
        mean=_three(row.mean),
        std=_three(row.std),
    )


def classifier_names(entry: Entry) -> tuple[str, ...]:
    """How the names of the tensors begin that a network without its classifier lacks."""
    return tuple(f"{each}." for each in _facts(entry.name).classifier.split())


def repository(entry: Entry) -> str:
    """Where the weights are on the Hugging Face hub, '' if they are not; may end in @revision."""
    row = _facts(entry.name)
    return f"{HUB}{row.name}" if row.hub == "=" else row.hub


def url(entry: Entry) -> str:
    """The address that torchvision, or timm for older networks, gives the weights; '' if none."""
    return _facts(entry.name).url


def _entry(name: str) -> Entry:
    row, default = _facts(name), _facts(name.partition(".")[0])
    # Measured with the default weights: others may have another input, or a classifier of another size.
    same = (row.size, row.classes) == (default.size, default.classes)
    measured = _table()[name.partition(".")[0]] if same else Row(name, row.library)
    return Entry(
        name=name,
        library=cast(Library, row.library),
        parameters=int(measured.parameters) if measured.parameters else None,
        gmac=float(measured.gmac) if measured.gmac else None,
        size=int(row.size),
        licence=row.licence,
    )


def _facts(name: str) -> Row:
    """The line with the facts of a network, or of a network and tag."""
    row = _table()[name]
    return _table()[f"{name}.{row.tag}"] if row.tag else row


@functools.cache
def _listed() -> list[str]:
    """All networks, without and with a tag, sorted; former names and oblong inputs left out."""
    return sorted(name for name, row in _table().items() if not row.now and _is_square(name))


def _is_square(name: str) -> bool:
    return "x" not in _facts(name).size


def _three(text: str) -> tuple[float, float, float]:
    red, green, blue = map(float, text.split())
    return red, green, blue


@functools.cache
def _table() -> dict[str, Row]:
    with TABLE.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(line for line in lines if not line.startswith("#"))
        next(rows)  # the names of the columns: the fields of Row
        return {row[0]: Row(*row) for row in rows}
