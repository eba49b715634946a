"""Saved folders that are not what graft wrote: each is refused in one sentence, at once, and nothing is ever answered.

What was flipped by accident is found by its SHA-256; here whoever changed a file has put the right one on the card.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as arrays
from safetensors import torch as tensors

from graft.errors import DataError, ModelError
from graft.heads.designs import Linear as LinearDesign
from graft.model import storage
from graft.model.card import choices, describe
from graft.model.classifier import Classifier, load
from graft.model.memory import Memory, Pictures, examined
from graft.model.unknown import Known
from graft.networks import catalog
from graft.networks.head import Head, fresh
from graft.networks.network import Backbone, Features, Network
from graft.networks.weights import Source
from graft_runtime.decide import NO_NUMBER

CARD, WEIGHTS, MEMORY, REPORT = storage.CARD, storage.TENSORS, storage.MEMORY, storage.REPORT
IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Whatever waits for the end of a pipe fails instead."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)


def made(spec: dict[str, Any] | None = None) -> Classifier:
    """A classifier of random weights that remembers six images."""
    torch.manual_seed(0)
    entry = catalog.find("test_resnet")
    source = Source("file", None, "none", "nowhere")
    backbone = Backbone(entry, catalog.headless(entry, catalog.build(entry)), catalog.preprocess(entry), source)
    features = Features(backbone.module, backbone.preprocess, ()).eval()
    head = Head(spec | {"width": features.width}) if spec else fresh(LinearDesign(init="he_normal"), features.width, 3)
    network = Network(features, head).eval().requires_grad_(False)
    card = describe(network, backbone, ("a", "b", "c"), "test", 1.0)
    card = replace(card, head=card.head | {"solver": "none"}, data={"train": 6, "test": 6, "seed": 0})
    rng, names = np.random.default_rng(0), tuple("uvwxyz")
    digests, labels = rng.integers(0, 256, (6, 16), np.uint8), np.array([0, 1, 2, 0, 1, 2], np.int32)
    exam = examined(digests, names, labels, rng.dirichlet(np.ones(3), 6), np.zeros(6, np.float32))
    known = Known(rng.random((6, features.width)).astype(np.float16), labels, names, np.ones(20, np.float32))
    held = Pictures(digests, names, labels, np.ones(6, np.int8), np.empty(0, np.int64), given=False)
    return Classifier(network, card, {"evaluation": None}, Memory(np.unique(digests[:, :8], axis=0), exam, known, held))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return made()


@pytest.fixture
def model(classifier: Classifier, tmp_path: Path) -> Path:
    return classifier.save(tmp_path / "model")


def edit(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    card = json.loads((model / CARD).read_text())
    change(card)
    (model / CARD).write_text(json.dumps(card))


def put(model: Path, name: str, content: bytes) -> None:
    """Another content, with its SHA-256 on the card."""
    (model / name).write_bytes(content)
    edit(model, lambda card: card["weights"].update({name: hashlib.sha256(content).hexdigest()}))


def refused(model: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(model)
    text = str(caught.value)
    assert all(re.search(word, text) for word in words), text
    assert len(text) < 600
    assert "\n" not in text


# --- what lies there is no file ---------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (pipe, "it is a pipe, and no file"),
    "folder": (Path.mkdir, "it is a folder, and no file"),
    "socket": (bound, "it is a socket, and no file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, and no file"),
    "huge": (sparse, "it has 1,099,511,627,776 bytes, and at most [0-9,]+ are read"),
}


@pytest.mark.parametrize("name", [CARD, WEIGHTS, MEMORY, REPORT])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket lives on as long as its name is needed
def test_what_is_no_file_is_refused_at_once(model: Path, name: str, kind: str) -> None:
    make, message = KINDS[kind]
    (model / name).unlink()
    make(model / name)
    refused(model, name, message)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_so_is_a_card_that_choices_are_taken_from(model: Path, kind: str) -> None:
    make, message = KINDS[kind]
    (model / CARD).unlink()
    make(model / CARD)
    with pytest.raises(ModelError, match=message):
        choices(model if kind == "folder" else model / CARD)


# --- descriptions -----------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("name", [CARD, REPORT])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEEP, "nested more than 64 deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested more than 64 deep"),
        ('{"schema": 2, "temperature": NaN}', "NaN is no number"),
        ('{"schema": 2, "temperature": -Infinity}', "-Infinity is no number"),
        ('{"schema": 2, "temperature": 1e999}', "1e999 is no number"),
        ('{"schema": ' + "9" * 5000 + "}", "integer string conversion"),
    ],
    ids=["deep list", "deep table", "NaN", "infinity", "1e999", "digits"],
)
def test_json_that_no_strict_reader_takes_is_refused(model: Path, name: str, text: str, words: str) -> None:
    (model / name).write_text(text)
    refused(model, name, words)


FIELDS: dict[str, tuple[Any, str]] = {
    "temperature": (0, "must be above 0"),
    "temperature ": (-1.0, "must be above 0"),
    "temperature  ": (1e9, "lies from 1e-06 to 1e"),
    "temperature   ": (10**400, "'temperature' cannot be 1000"),
    "temperature    ": (True, "'temperature' cannot be True"),
    "thresholds": ([0.5, 2.0, 0.5], "its thresholds lie from 0 to 1, and one is 2"),
    "scales": ([1.0, -1.0, 1.0], "its scales lie from .*, and one is -1"),
    "shifts": ([1e9, 0, 0], "its shifts lie from .*, and one is 1e"),
    "sets": ([-1.0] * 52, "its sets lie from 0 to 1, and one is -1"),
    "sets ": ([10**400] * 52, "'sets' is no list of numbers"),
    "classes": ([], "the card has no classes"),
    "classes ": (["a", "b", "\ud800"], "'classes' is no list of names"),
    "task": ("x" * 10_000, "its task is 'xxx"),
    "preprocess.size": (-1, "'preprocess.size' must be a whole number from 1 to 2,048, and is -1"),
    "preprocess.size ": (10**6, "'preprocess.size' must be a whole number"),
    "preprocess.size  ": (0.5, "'preprocess.size' must be a whole number"),
    "preprocess.resize": (10**9, "'preprocess.resize' must be a whole number"),
    "preprocess.resize ": (8, "'resize' is less than 'size'"),
    "preprocess.mean": ([1e9, 0, 0], "'preprocess.mean' must be three numbers"),
    "preprocess.std": ([0, 0, 0], "'preprocess.std' must be three numbers"),
    "preprocess.std ": ([1, 1], "'preprocess.std' must be three numbers"),
    "preprocess.interpolation": ("lanczos", "'preprocess.interpolation' must be 'bicubic' or 'bilinear'"),
    "preprocess.crop": ([], "'preprocess.crop' must be 'center' or 'squash'"),
    "preprocess": ({}, "do not belong together: the card does not say 'size' of the preprocessing"),
    "preprocess.colour": ("blue", "do not belong together.*colour"),
    "backbone.name": (["x"], "'backbone.name' must be a text"),
    "backbone.name ": ("../../etc", "do not belong together.*no network"),
    "head.kind": ("oracle", "do not belong together.*no head of kind 'oracle'"),
    "head.kind ": ("mlp", "do not belong together.*has no 'hidden'"),
    "head.width": (10**12, "the head's 'width' is a whole number"),
    "head.width ": (2**30, r"wrong shape head.mean|Wrong|wrong shape"),
    "head.pca": (2**30, "missing head.axes"),
    "head.pca ": (-3, "the head's 'pca' is a whole number"),
    "head.dropout": (2, "the head's 'dropout' is a number from 0 to below 1"),
    "unknown.layers": ([7], "'unknown.layers' must be a list of names"),
    "unknown.layers ": (["attic"], "do not belong together.*attic"),
    "unknown.layers  ": (["conv1"], "memory.safetensors and .* do not belong together: images are compared by"),
    "unknown.rate": (7, "'unknown.rate' must be a number from 0 to 1"),
    "choices.seed": ("x", "'choices.seed' must be a whole number"),
    "choices.strategy": (5, "'choices.strategy' must be a text"),
    "data.train": ("many", "'data.train' must be a whole number"),
    "licences": ({"weights": []}, "'licences' cannot be"),
    "weights": ({WEIGHTS: 7}, "'weights' cannot be"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_cannot_be_is_named_with_what_is_legal(model: Path, field: str) -> None:
    value, words = FIELDS[field]
    name, _, inner = field.strip().partition(".")
    edit(model, lambda card: card[name].update({inner: value}) if inner else card.update({name: value}))
    refused(model, CARD, words)


def test_a_head_that_asks_for_gigabytes_gets_none_of_them(model: Path) -> None:
    spec = {"kind": "mlp", "hidden": [2**20, 2**20], "activation": "relu", "dropout": 0.0}
    edit(model, lambda card: card["head"].update(spec))
    refused(model, CARD, "do not belong together")
    edit(model, lambda card: card["head"].update(kind="knn", stored=2**31 - 1, neighbours=5))
    refused(model, CARD, "do not belong together")


# --- tensors ----------------------------------------------------------------------------------------------------------


def changed(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    held = tensors.load((model / WEIGHTS).read_bytes())
    change(held)
    put(model, WEIGHTS, tensors.save(held))


NUMBERS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "nan in the head": (lambda held: held["head.judge.weight"][0].fill_(np.nan), "not a number in head.judge.weight"),
    "inf in the scale": (lambda held: held["head.scale"][0].fill_(np.inf), "not a number in head.scale"),
    "nan in the backbone": (
        lambda held: held["features.backbone.conv1.0.weight"][0].fill_(np.nan),
        "not a number in features.backbone.conv1.0.weight",
    ),
    "whole numbers": (lambda held: held.update({"head.mean": held["head.mean"].int()}), "wrong type head.mean"),
    "other shape": (lambda held: held.update({"head.mean": held["head.mean"][:3]}), "wrong shape head.mean"),
    "one more": (lambda held: held.update({"head.extra": held["head.mean"] + 1}), "unexpected head.extra"),
    "one less": (lambda held: held.pop("head.mean"), "missing head.mean"),
}


@pytest.mark.parametrize("what", NUMBERS)
@pytest.mark.fault(37)
def test_weights_that_are_no_numbers_are_refused_by_name(model: Path, what: str) -> None:
    change, words = NUMBERS[what]
    changed(model, change)
    refused(model, WEIGHTS, "do not belong together", words)


FOREST = {"kind": "forest", "trees": 2, "nodes": 5, "leaves": 3, "depth": 2, "several": False, "classes": 3}
KNN = {"kind": "knn", "stored": 4, "neighbours": 2, "classes": 3}


@pytest.mark.parametrize(
    ("spec", "name", "value", "words"),
    [
        (KNN, "labels", 3, "head.judge.labels has places from 0 to 3, and there are 3"),
        (KNN, "labels", -1, "head.judge.labels has places from -1"),
        (FOREST, "features", 10**6, "head.judge.features has places"),
        (FOREST, "sides", 5, "head.judge.sides has places"),
        (FOREST, "roots", -1, "head.judge.roots has places"),
        (FOREST, "roots", 4, "the ways down from head.judge.roots has places from 0 to 4, and there are 3"),
    ],
)
def test_a_head_that_points_nowhere_is_refused(
    tmp_path: Path, spec: dict[str, Any], name: str, value: int, words: str
) -> None:
    classifier = made(spec)
    if spec is FOREST:
        sides = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 1], [4, 4]], dtype=torch.int32)
        classifier.network.head.get_buffer("judge.sides").copy_(sides)
    model = classifier.save(tmp_path / "model")
    assert load(model).classes == ("a", "b", "c")
    changed(model, lambda held: held[f"head.judge.{name}"].view(-1)[0].fill_(value))
    refused(model, WEIGHTS, words)


# --- the memory -------------------------------------------------------------------------------------------------------


def forgotten(model: Path, **held: Any) -> None:
    """Other arrays in the memory; None takes one out."""
    memory = arrays.load((model / MEMORY).read_bytes())
    memory |= {name.replace("_", "."): value for name, value in held.items()}
    put(model, MEMORY, arrays.save({name: value for name, value in memory.items() if value is not None}))


def packed(text: bytes) -> np.ndarray:
    return np.frombuffer(zlib.compress(text), np.uint8)


MEMORIES: dict[str, tuple[dict[str, Any], str]] = {
    "bomb": ({"known_names": packed(b'["' + b"a" * 300_000_000 + b'"]')}, "unpack to more than [0-9,]+ bytes"),
    "no zlib": ({"known_names": np.zeros(9, np.uint8)}, "its names cannot be unpacked"),
    "no names": ({"known_names": packed(b"7")}, "its names are no list of texts"),
    "few names": ({"known_names": packed(b'["a"]')}, "'known.names' are 6, and here 1"),
    "deep names": ({"known_names": packed(b"[" * 9000 + b"]" * 9000)}, "nested more than"),
    "nan features": ({"known_features": np.full((6, 512), np.nan, np.float16)}, "'known.features' has numbers that"),
    "flat features": ({"known_features": np.zeros(6, np.float16)}, "'known.features' is any x any of floating"),
    "narrow": ({"known_features": np.zeros((6, 2), np.float16)}, "those remembered have 2"),
    "labels": ({"known_labels": np.full(6, 3, np.int32)}, "'known.labels' has numbers that are none, or out of"),
    "strays": ({"known_strays": np.array([1, 0], np.float32)}, "not in order"),
    "chances": ({"tested_chances": np.full((6, 3), 2, np.float32)}, "'tested.chances' has numbers"),
    "columns": ({"tested_columns": np.full((6, 3), 3, np.int32)}, "'tested.columns' has numbers"),
    "digests": ({"tested_digests": np.zeros((6, 4), np.uint8)}, "'tested.digests' is any x 16"),
    "no chances": ({"tested_chances": None}, "chances"),
    "parts": ({"pictures_parts": np.full(6, 9, np.int8)}, "'pictures.parts' has numbers"),
    "groups": ({"pictures_groups": np.zeros(2, np.int64)}, "'pictures.groups' is 6 of"),
    "trained": ({"trained": np.zeros((2, 3), np.uint8)}, "'trained' is any x 8"),
    "another": ({"secret_door": np.zeros(1)}, "secret"),
}


@pytest.mark.parametrize("what", MEMORIES)
def test_a_memory_that_cannot_be_is_refused(model: Path, what: str) -> None:
    held, words = MEMORIES[what]
    forgotten(model, **held)
    refused(model, MEMORY, words)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(classifier: Classifier) -> Classifier:
    """One whose numbers run over for every image: all of its weights are numbers, and their products are none."""
    broken = made()
    with torch.no_grad():
        broken.network.head.get_parameter("judge.weight").fill_(3e38)
        broken.network.head.scale.fill_(3e38)
    return broken


def test_an_answer_that_is_no_number_is_a_fault_of_the_image(broken: Classifier, classifier: Classifier) -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 8, 8, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = broken.predict(images)
        assert [(each.answer, each.fault, each.label) for each in said] == [(None, NO_NUMBER, "")] * 3
        assert json.loads(json.dumps([each.as_dict() for each in said], allow_nan=False))[0]["probability"] == 0.0
    assert [each.fault for each in classifier.predict(images)] == ["", "", ""]


def test_a_score_counts_it_among_the_faults(broken: Classifier, tmp_path: Path) -> None:
    from PIL import Image

    for name in "abc":
        (tmp_path / name).mkdir()
        for at in range(2):
            Image.fromarray(np.full((8, 8, 3), 99 * at + ord(name) % 9, np.uint8)).save(tmp_path / name / f"{at}.png")
    with pytest.raises(DataError, match=rf"None of the 6 pictures can be used, the first because: {NO_NUMBER}"):
        broken.evaluate(tmp_path)
