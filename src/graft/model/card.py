"""A classifier's card: from the pieces that made it."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graft.backbones.backbone import Backbone
from graft.errors import ModelError
from graft.model.network import Network
from graft_runtime import regular
from graft_runtime.card import Card, CardError, parse

MOST = 1 << 28  # bytes of a card


def describe(network: Network, backbone: Backbone, classes: tuple[str, ...], strategy: str, temperature: float) -> Card:
    """The card of a network that was just made from this backbone; scores and data are added by those who know."""
    source = backbone.source
    return Card(
        classes=classes,
        preprocess=asdict(network.preprocess),
        backbone={
            "name": backbone.name,
            "library": backbone.entry.library if backbone.entry else "onnx",
            "origin": source.origin,
            "where": source.where,
            "sha256": source.sha256,
            "licence": source.licence,
        },
        head=network.head.spec,
        strategy=strategy,
        temperature=temperature,
        layers=network.features.layers,
        top=network.features.top,
        pool=network.features.pool,
        provenance=versions(),
        licences={"weights": source.licence, "code": "Apache-2.0"},
    )


def choices(path: Path) -> dict[str, Any]:
    """What was chosen for the classifier with this card (model.json). Raises ModelError."""
    try:
        return parse(regular.read(path / "model.json" if path.is_dir() else path, MOST).decode()).choices
    except OSError as error:
        raise ModelError(f"{path} cannot be used as a card: {error.strerror}.") from error
    except (UnicodeDecodeError, CardError) as error:
        raise ModelError(f"{path} cannot be used as a card: {error}.") from error


def versions() -> dict[str, Any]:
    """What made the classifier, and when."""
    packages = {"graft": "graft-vision", "torch": "torch", "timm": "timm", "onnxruntime": "onnxruntime"}
    return {
        **{name: found for name, package in packages.items() if (found := installed(package))},
        "python": platform.python_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def installed(package: str) -> str:
    """Its version; empty where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
