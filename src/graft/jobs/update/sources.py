"""Rebuild the data set, network and choices of a classifier from its records and the cache."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import catalog
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import Features
from graft.backbones.graph import TOP, Graph, graph_key
from graft.backbones.weights import RANDOM, WeightsSource
from graft.data.cache import cache_folder
from graft.data.classes import find_new_classes
from graft.data.dataset import Dataset, Labels, compute_digest, concatenate_groups
from graft.data.images import CachedImages, ConcatenatedImages, ImageFiles
from graft.data.readers.folder import list_loose_images
from graft.data.readers.source import read_source
from graft.errors import DataError, UpdateError, WeightsError
from graft.extras import require_package
from graft.features.embed import Embeddings, embed, load_each
from graft.heads.designs import HEAD_NAMES
from graft.model.classifier import Classifier
from graft.model.memory import ImageRecords
from graft.progress import ProgressWrapper
from graft.training.plan import Plan
from graft.training.strategies import EarlyFeatures, Probe
from graft_runtime.card import MULTILABEL

MAX_NAMES = 5  # images named in an error message


def get_image_records(classifier: Classifier) -> ImageRecords:
    """Return the records of a classifier's images. UpdateError without any, or for a head that is no linear probe."""
    solver = classifier.card.head.get("solver")
    if solver == "published":
        raise UpdateError("This network has its own published classes, and was trained on none of your images.")
    if solver not in HEAD_NAMES:
        raise UpdateError(
            f"The strategy {classifier.card.strategy!r} trained the network on the old classes, so that a new head "
            "alone would not be what a training gives, and its scores would flatter. Only --rename can be done; for "
            "all else train again with the same plan: graft fit photos/ -o model2/ --from model/"
        )
    if classifier.memory is None or classifier.memory.images is None:
        raise UpdateError(
            "This classifier does not remember its images: it was saved by an earlier version of graft. Train it "
            "once more, and later ones can be updated: graft fit photos/ -o model2/ --from model/"
        )
    return classifier.memory.images


def rebuild_dataset(
    records: ImageRecords, labels: Labels, classes: tuple[str, ...], photos: Any, watch: ProgressWrapper
) -> Dataset:
    """Return the recorded images with these labels; those found in `photos` by content can be read."""
    source = None if photos is None else read_source(photos, watch=watch)
    source_rows = np.full(len(records.names), -1, np.intp)
    if source is not None:
        rows = {each.value: each.row for each in load_each(source, compute_digest, watch) if each.value}
        source_rows[:] = [rows.get(own.tobytes(), -1) for own in records.digests]
    names = np.array(records.names, dtype=np.dtypes.StringDType())
    column = CachedImages(
        names, records.digests, source_rows, source.images if source else None, source.root if source else ""
    )
    groups = records.groups if len(records.groups) else None
    return Dataset(column, labels, classes, records.parts, {}, groups)


def check_images_available(data: Dataset, count: int, faults: dict[int, str], photos: Any) -> None:
    """Raise DataError where some of the old images, the first `count`, are neither in `photos` nor in the cache."""
    lost = [row for row in faults if row < count]
    if lost:
        some = ", ".join(data.name(row) for row in lost[:MAX_NAMES])
        what = f"{len(lost):,} of the {count:,} images of before are not in the cache ({cache_folder()})"
        where = f"and not in {photos}" if photos is not None else "and without --photos they cannot be read"
        raise DataError(
            f"{what} {where}: {some}{', ...' if len(lost) > MAX_NAMES else ''}. Say where they lie with --photos, or "
            "set GRAFT_CACHE to the cache of the machine that trained the classifier."
        )


def check_head_features(
    read: Features, embedded: Embeddings, data: Dataset, count: int, photos: Any, watch: ProgressWrapper
) -> None:
    """Check the same for the features that the head reads, where near-duplicates were found by others."""
    if read.cache_key() != embedded.store.folder.name:
        check_images_available(data, count, embed(read, data, seed=embedded.seed, watch=watch).faults, photos)


# --- added images -----------------------------------------------------------------------------------------------------


def append_source(old: Dataset, source: Any, watch: ProgressWrapper) -> Dataset:
    """Append the images of a source to those of a classifier; new classes come after its own.

    Raises DataError for a source without images, with classes that differ only in spelling, or with labels of the other
    task; and for new labels in multilabel, as it is unknown which of the old images have them.
    """
    new = _read_added(source, watch)
    source_name = new.root or "what is added"
    classes = (*old.classes, *find_new_classes(source_name, new.classes, old.classes))
    multilabel = old.task == MULTILABEL
    if multilabel and len(classes) > len(old.classes):
        raise DataError(
            f"{source_name} has the label {classes[len(old.classes)]!r}, which is new, and where an image may have "
            "several nobody has said which of the old ones show it too. Label all of them, and run `graft fit`."
        )
    if new.task == MULTILABEL and not multilabel:
        raise DataError(f"{source_name} gives images several labels, and this classifier gives each image one.")
    order = np.array([classes.index(name) for name in new.classes], np.int32)
    added = _map_labels(new, order, len(classes)) if multilabel else order[new.labels]
    labels: Labels = np.concatenate([old.labels, added])  # pyright: ignore[reportAssignmentType]  # both of one kind
    return Dataset(
        ConcatenatedImages.from_columns((old.images, new.images)),
        labels,
        classes,
        np.concatenate([old.split, new.split]),
        {what: old.ignored.get(what, 0) + new.ignored.get(what, 0) for what in (*old.ignored, *new.ignored)},
        concatenate_groups(old, new),
        new.columns or old.columns,
    )


def _read_added(source: Any, watch: ProgressWrapper) -> Dataset:
    if isinstance(source, str | Path) and (names := list_loose_images(Path(source))):
        folder = Path(source).absolute()
        files = ImageFiles.from_names([f"{folder.name}/{name}" for name in names], str(folder.parent))
        one = np.zeros(len(names), np.int32)
        return Dataset(files, one, (unicodedata.normalize("NFC", folder.name),), one.astype(np.int8))
    return read_source(source, (), watch=watch)


def _map_labels(new: Dataset, order: NDArray[np.int32], count: int) -> NDArray[np.uint8]:
    """Return multilabel targets with a column for each of all classes."""
    found = np.zeros((len(new), count), np.uint8)
    found[:, order] = new.targets()
    return found


# --- network and plan ----------------------------------------------------------------------------------------------


def restore_backbone(classifier: Classifier) -> Backbone:
    """Restore the whole frozen network of a classifier with a linear probe.

    Near-duplicates are found by all of its stages; those that the saved folder left out are loaded from where their
    weights came from. Raises UpdateError where they cannot be loaded.
    """
    described, features = classifier.card.backbone, classifier.network.features
    source = WeightsSource(described["where"], None, described["licence"], described["origin"], described["sha256"])
    graph = features.graph if TOP in features.graph.shapes else _restore_graph(classifier, source)
    # The identity is computed anew: it names the cache, and a saved folder could claim that of another network.
    graph = replace(graph, identity=graph_key(graph))
    entry = None if described["library"] == "onnx" else catalog.find_entry(described["name"])
    return Backbone(entry, graph, features.preprocess, source)


def _restore_graph(classifier: Classifier, source: WeightsSource) -> Graph:
    """Load the network again, with the stages that were left out."""
    name, kept = classifier.card.backbone["name"], classifier.network.features.graph.tensors
    message = (
        f"{classifier.card.strategy!r} saved those stages of {name} alone that its head reads, and an update needs the "
        "others too: near-duplicates are found by all of them."
    )
    try:
        found = _load_original_weights(name, source, Plan.from_dict(classifier.card.choices).seed)
    except WeightsError as error:
        raise UpdateError(f"{message} Their weights ({source.origin}) cannot be had: {error}") from error
    state = found.graph.tensors
    if found.source.sha256 != source.sha256 or not all(np.array_equal(state[each], kept[each]) for each in kept):
        raise UpdateError(
            f"{message} The weights found now, {found.source.origin}, are not those of then ({source.origin}, SHA-256 "
            f"{source.sha256 or 'none'}). Put those into a folder named in GRAFT_WEIGHTS, as {name}.safetensors for "
            "instance; or train once more: graft fit photos/ -o model2/ --from model/"
        )
    return found.graph


def _load_original_weights(name: str, source: WeightsSource, seed: int) -> Backbone:
    """Load the weights from the file of then, if it still exists; else from where weights usually come from."""
    if source.where == RANDOM:
        require_package("torch", "Random weights are drawn again by PyTorch, and that")
        from graft.torch.restore import build_random_backbone

        return build_random_backbone(name, seed)
    file = Path(source.origin.removeprefix("file "))
    return load_backbone(name, file if source.where == "file" and file.is_file() else None)


def restore_plans(classifier: Classifier) -> tuple[Plan, Plan]:
    """Return (the original plan, the same with the head and layers that were selected)."""
    card = classifier.card
    chosen = Plan.from_dict(card.choices)
    strategy, solver = chosen.parsed_strategy, card.head["solver"]
    if isinstance(strategy, EarlyFeatures):
        text = f"early-features:at={strategy.at},solver={solver},views={strategy.views},pca={strategy.pca}"
    else:
        views = strategy.views if isinstance(strategy, Probe) else 1
        text = f"probe:head={solver},layers={'all' if card.layers else 'last'},views={views},pca={chosen.pca}"
    return chosen, Plan(strategy=text, backbone=chosen.backbone, seed=chosen.seed)
