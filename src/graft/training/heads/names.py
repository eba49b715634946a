"""What a head and its layers may be called, without what solves or trains it: checked before torch is there."""

from __future__ import annotations

from graft import extras, spec
from graft.errors import UsageError

NAMES = ("auto", "ridge", "logistic", "svm", "lda", "ncm", "knn", "mlp", "forest")
CLASSICAL = ("svm", "lda", "ncm", "knn", "mlp", "forest")  # fitted by scikit-learn
ONE_LABEL = ("knn",)  # heads that count votes for one class of each picture
LAYERS = ("auto", "last", "all")


def check(head: str, layers: str, several: bool = False) -> None:
    """Raises UsageError for a head or a choice of layers that there is not, or not for several labels a picture."""
    if head not in NAMES:
        raise UsageError(f"There is no head {head!r}.{spec.meant(head, NAMES)} There are {', '.join(NAMES)}.")
    if several and head in ONE_LABEL:
        able = ", ".join(name for name in NAMES if name not in ONE_LABEL)
        raise UsageError(f"The head {head!r} takes one label for each picture. Several labels are taken by {able}.")
    if layers not in LAYERS:
        raise UsageError(f"Layers are {', '.join(LAYERS)}. Got {layers!r}.{spec.meant(layers, LAYERS)}")


def check_installed(head: str) -> None:
    """Raises UsageError for a head that scikit-learn fits where that is not installed."""
    if head in CLASSICAL:
        extras.needed("sklearn", f"The head {head!r}")


def check_pca(pca: int) -> None:
    """Raises UsageError for a number of axes that cannot be; 0 is all features as they are."""
    if pca < 0:
        raise UsageError(f"'pca' must be 1 or more, how many axes to keep, or 0 to keep all features. Got {pca}.")
