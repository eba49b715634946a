"""What can be told to be wrong of a command before anything heavy is loaded: paths, names, options, places.

Every command asks here first. What needs more than the standard library and NumPy to be told is told later, by the job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graft import extras, spec
from graft.errors import DataError, ModelError, OutputError, UsageError, WeightsError
from graft.jobs import logs, outputs
from graft.jobs.export import formats
from graft.training.choices import RANDOM, Choices
from graft_runtime.card import COVERAGES, CardError, parse

CATALOG = Path(__file__).with_name("networks") / "catalog.csv"
# Other names for networks: those of graft.networks.catalog, which costs an import of torch; a test compares.
ALIASES = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "vit_b_16", "vit_b_32")
CARD = "model.json"  # of a saved classifier
PATTERN = re.compile(r"[*?\[{]")  # in a source that stands for many files: shards-{000..009}.tar


def source(path: str | Path | None, columns: str = "") -> None:
    """Labelled images: raises DataError where nothing has this name, UsageError for columns that cannot be."""
    if path is not None and not PATTERN.search(str(path)) and not os.path.lexists(path):
        raise DataError(f"There is no folder or file {path}.")
    if columns:
        from graft.data.read.columns import Columns  # here: NumPy, which nothing else that is checked needs
        from graft.data.read.source import read_source

        Columns.of(columns)
        read_source(path, (), columns)  # () as one class may do where a classifier has others


def images(paths: Iterable[str | Path]) -> None:
    """Images to be judged: raises DataError for a path where nothing is."""
    for path in paths:
        if not Path(path).exists():
            raise DataError(f"There is no file {path}.")


def model(path: str | Path, *, named: bool = True) -> None:
    """A saved classifier, an exported file or, unless not `named`, a network by name. Raises ModelError."""
    place = Path(path)
    if place.is_dir() and not (place / CARD).exists():
        raise ModelError(
            f"{place} is no saved classifier: it has no {CARD}. Name the folder that `graft fit --output` wrote."
        )
    if not place.exists() and not (named and plausible(str(path))):
        near = spec.meant(str(path), networks()) if named else ""
        raise ModelError(
            f"{place} is no saved classifier: there is no such folder.{near} Name the folder that `graft fit --output` "
            "wrote."
        )


def backbone(name: str) -> None:
    """Raises UsageError for a name that no network has."""
    if not plausible(name):
        beyond = "" if find_spec("timm") else " " + extras.missing("timm", "A network that is not among these")
        raise UsageError(
            f"There is no network '{name}'.{spec.meant(name, networks())} `graft backbones` lists all.{beyond}"
        )


def weights(file: str | Path | None) -> None:
    """Raises WeightsError for a file that is not there."""
    if file is not None and str(file) != RANDOM and not Path(file).is_file():
        raise WeightsError(f"There is no weights file {file}.")


def folder(output: Path | None, *, force: bool) -> None:
    """Where a classifier is to be saved: raises OutputError where that cannot be, as `storage.claimed` does."""
    if output is None:
        return
    around = next(each for each in outputs.place_of(output).absolute().parents if each.exists())
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise OutputError(f"{output} cannot be written to: {around} is no folder that can be. Choose another --output.")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file, which graft did not write. Choose another folder.")
    if (output / CARD).exists() and not force:
        raise OutputError(f"{output} already holds a classifier. Use --force to replace it, or choose another folder.")


def file(output: Path | None, *, force: bool) -> None:
    """Where a file is to be written: raises OutputError where that cannot be."""
    if output is not None:
        outputs.check(output, lambda _: True, force=force)  # whose it is the job tells


def drawings(output: Path) -> None:
    """A folder for drawings, made where there is none: raises OutputError where that cannot be."""
    around = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
    if not around.is_dir() or not os.access(around, os.W_OK):
        raise OutputError(f"{output} cannot be written: {around} is no folder that can be. Choose another --output.")


def shares(coverage: float | None, unknown: float) -> None:
    """Raises UsageError for a coverage, or a share of unknown images, that cannot be."""
    if coverage is not None and not 0 < coverage <= COVERAGES[-1]:
        raise UsageError(f"A coverage is a share above 0 and up to {COVERAGES[-1]}, such as 0.9. Got {coverage:g}.")
    if not 0 <= unknown < 1:
        raise UsageError(f"The share of pictures that may be called unknown lies from 0 to 1. Got {unknown:g}.")


def choices(
    output: Path | None, like: Path | None, resume: bool, log: str, weights_file: str | None, **asked: str | int | None
) -> Choices:
    """What was chosen for a training. Raises UsageError for what cannot be, and for what does not go together."""
    logs.check(log)
    written = _written(like) if like else {}
    drawn = None if weights_file is None else RANDOM if weights_file == RANDOM else ""
    found = Choices.of(written, **asked, weights=drawn)
    backbone(found.backbone)
    weights(weights_file)
    found.check()
    found.check_run(bool(output), resume, log)
    return found


def _written(like: Path) -> dict[str, Any]:
    """What was chosen for another classifier, as graft.model.card.choices, which costs an import of torch."""
    path = like / CARD if like.is_dir() else like
    try:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        return parse(path.read_text(encoding="utf-8")).choices
    except (OSError, UnicodeDecodeError, CardError) as error:
        raise ModelError(f"{like} cannot be used as a card: {error}.") from error


def export(to: str | None, output: Path, *, int8: bool, blind: bool, force: bool) -> None:
    """Raises UsageError for a format that cannot be, OutputError for a place that cannot be written to."""
    if formats.chosen(to, output, int8, blind=blind) == formats.WEB:
        outputs.check_around(outputs.place_of(output))
    else:
        file(output, force=force)


def plausible(name: str) -> bool:
    """Whether a network may have this name: False is certain."""
    own = ALIASES if name in ALIASES else networks() if "." not in name else ()
    bare = name.partition(".")[0]
    return name in own or bare in networks() or _in_timm(bare)


def networks() -> list[str]:
    """The networks that the catalogue was measured with, by name."""
    lines = CATALOG.read_text(encoding="utf-8").splitlines() if CATALOG.exists() else []
    return [line.partition(",")[0] for line in lines[2:]]


def _in_timm(name: str) -> bool:
    """Whether timm's files define it, or name it as an old name: they are read, not loaded. A newer timm has more."""
    known = re.compile(rf"^def {re.escape(name)}\(|^\s*['\"]{re.escape(name)}['\"]:", re.MULTILINE)
    return name.isidentifier() and any(known.search(text) for text in _sources())


def _sources() -> Iterator[str]:
    found = find_spec("timm")
    for place in found.submodule_search_locations or () if found else ():
        for path in sorted((Path(place) / "models").glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")
