"""What a classifier was trained and tested on, as a table again: by what it remembers, and what is in the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graft.backbones import catalog
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import Features
from graft.backbones.graph import TOP, Graph, key
from graft.backbones.weights import RANDOM, Source
from graft.data.cache import cache_folder
from graft.data.dataset import Dataset, Labels, digest
from graft.data.read.source import read_source
from graft.data.recalled import Recalled
from graft.errors import DataError, UpdateError, WeightsError
from graft.extras import needed
from graft.model import pictures
from graft.model.classifier import Classifier
from graft.model.memory import Pictures
from graft.progress import Watch
from graft.training.choices import Choices
from graft.training.embed import Embedded, embed
from graft.training.heads.names import NAMES
from graft.training.strategies import EarlyFeatures, Probe

SHOWN = 5  # names in an error


def remembered(classifier: Classifier) -> Pictures:
    """Its pictures. UpdateError for one that has none, or whose head was not solved on a frozen network."""
    solver = classifier.card.head.get("solver")
    if solver == "published":
        raise UpdateError("This network has its own published classes, and was trained on none of your pictures.")
    if solver not in NAMES:
        raise UpdateError(
            f"The strategy {classifier.card.strategy!r} trained the network on the old classes, so that a new head "
            "alone would not be what a training gives, and its scores would flatter. Only --rename can be done; for "
            "all else train again with the same choices: graft fit photos/ -o model2/ --from model/"
        )
    if classifier.memory is None or classifier.memory.pictures is None:
        raise UpdateError(
            "This classifier does not remember its pictures: it was saved by an earlier version of graft. Train it "
            "once more, and later ones can be updated: graft fit photos/ -o model2/ --from model/"
        )
    return classifier.memory.pictures


def recalled(held: Pictures, labels: Labels, classes: tuple[str, ...], photos: Any, watch: Watch) -> Dataset:
    """The pictures with these labels; those that are found in `photos`, by content, can be read."""
    source = None if photos is None else read_source(photos, watch=watch)
    at = np.full(len(held.names), -1, np.intp)
    if source is not None:
        rows = {each.made: each.row for each in pictures.each(source, digest, watch) if each.made}
        at[:] = [rows.get(own.tobytes(), -1) for own in held.digests]
    names = np.array(held.names, dtype=np.dtypes.StringDType())
    column = Recalled(names, held.digests, at, source.images if source else None, source.root if source else "")
    groups = held.groups if len(held.groups) else None
    return Dataset(column, labels, classes, held.parts, {}, groups)


def check_found(data: Dataset, count: int, faults: dict[int, str], photos: Any) -> None:
    """Raises DataError where some of the old pictures, the first `count`, are neither at hand nor in the cache."""
    lost = [row for row in faults if row < count]
    if lost:
        some = ", ".join(data.name(row) for row in lost[:SHOWN])
        what = f"{len(lost):,} of the {count:,} pictures of before are not in the cache ({cache_folder()})"
        where = f"and not in {photos}" if photos is not None else "and without --photos they cannot be read"
        raise DataError(
            f"{what} {where}: {some}{', ...' if len(lost) > SHOWN else ''}. Say where they lie with --photos, or set "
            "GRAFT_CACHE to the cache of the machine that trained the classifier."
        )


def check_read(read: Features, looked: Embedded, data: Dataset, count: int, photos: Any, watch: Watch) -> None:
    """The same for what the head reads, where that is not what near-duplicates were found by."""
    if read.key() != looked.store.folder.name:
        check_found(data, count, embed(read, data, seed=looked.seed, watch=watch).faults, photos)


def backbone(classifier: Classifier) -> Backbone:
    """The frozen network of a classifier whose head was solved, whole, as it was when it was loaded for that.

    Near-duplicates are found by all of its stages; those that the saved folder left out come from where they came from
    then. Raises UpdateError where they cannot be had.
    """
    of, features = classifier.card.backbone, classifier.network.features
    source = Source(of["where"], None, of["licence"], of["origin"], of["sha256"])
    graph = features.graph if TOP in features.graph.shapes else _whole(classifier, source)
    graph = replace(graph, identity=key(graph))  # by what is in it: a folder could say another's, whose cache it enters
    entry = None if of["library"] == "onnx" else catalog.find(of["name"])
    return Backbone(entry, graph, features.preprocess, source)


def _whole(classifier: Classifier, source: Source) -> Graph:
    """The network with the stages that were left out."""
    name, kept = classifier.card.backbone["name"], classifier.network.features.graph.tensors
    told = (
        f"{classifier.card.strategy!r} saved those stages of {name} alone that its head reads, and an update needs the "
        "others too: near-duplicates are found by all of them."
    )
    try:
        found = _loaded(name, source, Choices.of(classifier.card.choices).seed)
    except WeightsError as error:
        raise UpdateError(f"{told} Their weights ({source.origin}) cannot be had: {error}") from error
    state = found.graph.tensors
    if found.source.sha256 != source.sha256 or not all(np.array_equal(state[each], kept[each]) for each in kept):
        raise UpdateError(
            f"{told} The weights found now, {found.source.origin}, are not those of then ({source.origin}, SHA-256 "
            f"{source.sha256 or 'none'}). Put those into a folder named in GRAFT_WEIGHTS, as {name}.safetensors for "
            "instance; or train once more: graft fit photos/ -o model2/ --from model/"
        )
    return found.graph


def _loaded(name: str, source: Source, seed: int) -> Backbone:
    """From the file that was named then, if it is still there; else from where weights usually come from."""
    if source.where == RANDOM:
        needed("torch", "Random weights are drawn again by PyTorch, and that")
        from graft.torch.fresh import fresh_backbone

        return fresh_backbone(name, seed)
    file = Path(source.origin.removeprefix("file "))
    return load_backbone(name, file if source.where == "file" and file.is_file() else None)


def choices(classifier: Classifier) -> tuple[Choices, Choices]:
    """(what was chosen once, the same with the head and the layers that came of it)."""
    card = classifier.card
    chosen = Choices.of(card.choices)
    plan, solver = chosen.plan, card.head["solver"]
    if isinstance(plan, EarlyFeatures):
        text = f"early-features:at={plan.at},solver={solver},views={plan.views},pca={plan.pca}"
    else:
        views = plan.views if isinstance(plan, Probe) else 1
        text = f"probe:head={solver},layers={'all' if card.layers else 'last'},views={views},pca={chosen.pca}"
    return chosen, Choices(strategy=text, backbone=chosen.backbone, seed=chosen.seed)
