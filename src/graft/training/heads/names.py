"""What a head and its layers may be called, without what solves or trains it: checked before torch is there."""

from __future__ import annotations

import dataclasses
from typing import Any

from graft import spec
from graft.errors import UsageError

NAMES = ("auto", "ridge", "logistic", "svm", "lda", "ncm", "knn", "mlp", "forest")
ONE_LABEL = ("knn",)  # heads that count votes for one class of each picture
LAYERS = ("auto", "last", "all")

# Options of the heads to train: those of graft.torch.head.HEADS, which costs an import of torch; a test compares.
DESIGNS: dict[str, dict[str, Any]] = {
    "linear": {"dropout": float, "init": str, "seed": int},
    "mlp": {"hidden": str, "activation": str, "dropout": float, "init": str, "seed": int | str},
    "conv": {
        **{"filters": int, "padding": str, "hidden": str, "activation": str, "spatial_dropout": float},
        **{"dropout": float, "init": str, "seed": int | str},
    },
}
TRAINED = {
    name: dataclasses.make_dataclass(name, [(each, kind, None) for each, kind in options.items()], frozen=True)
    for name, options in DESIGNS.items()
}


def check(head: str, layers: str, several: bool = False) -> None:
    """Raises UsageError for a head or a choice of layers that there is not, or not for several labels a picture."""
    if head not in NAMES:
        raise UsageError(f"There is no head {head!r}.{spec.meant(head, NAMES)} There are {', '.join(NAMES)}.")
    if several and head in ONE_LABEL:
        able = ", ".join(name for name in NAMES if name not in ONE_LABEL)
        raise UsageError(f"The head {head!r} takes one label for each picture. Several labels are taken by {able}.")
    if layers not in LAYERS:
        raise UsageError(f"Layers are {', '.join(LAYERS)}. Got {layers!r}.{spec.meant(layers, LAYERS)}")


def check_pca(pca: int) -> None:
    """Raises UsageError for a number of axes that cannot be; 0 is all features as they are."""
    if pca < 0:
        raise UsageError(f"'pca' must be 1 or more, how many axes to keep, or 0 to keep all features. Got {pca}.")


def check_trained(head: str) -> None:
    """Raises UsageError for a head to train, or an option of one, that there is not."""
    spec.parse(head, TRAINED, "head")
