"""Saved folders that are not what graft wrote: each is refused in one sentence, at once, and nothing is ever answered.

What was flipped by accident is found by its SHA-256; here whoever changed a file has put the right one on the card.
"""

from __future__ import annotations

import functools
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
import onnx
import pytest
import torch
from safetensors import numpy as packing
from safetensors import torch as tensors

from graft.backbones import graph
from graft.backbones.backbone import Backbone
from graft.backbones.features import Features
from graft.backbones.graph import FACTS_PROPERTY
from graft.errors import DataError, ModelError
from graft.heads.designs import Linear as LinearDesign
from graft.heads.head import Head, zero_tensors
from graft.metrics.unknown import KnownImages
from graft.model import storage
from graft.model.card import build_card
from graft.model.classifier import Classifier, load
from graft.model.memory import ImageRecords, Memory, build_record
from graft.model.network import Network
from graft.torch.head import build_head, head_to_arrays
from graft.torch.restore import build_random_backbone
from graft.training.plan import Plan
from graft_runtime import protobuf
from graft_runtime.decide import NOT_FINITE

CARD, WEIGHTS, MEMORY, REPORT = storage.CARD, storage.TENSORS, storage.MEMORY, storage.REPORT
GRAPH = storage.GRAPH
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


@functools.cache
def start(name: str = "test_resnet") -> Backbone:
    return build_random_backbone(name)


def made(spec: dict[str, Any] | None = None) -> Classifier:
    """A classifier of random weights that remembers six images."""
    torch.manual_seed(0)
    backbone = start()
    features = Features(backbone.graph, backbone.preprocess, ())
    if spec:
        own = spec | {"width": features.width}
        head = Head(own, zero_tensors(own))
    else:
        head = head_to_arrays(build_head(LinearDesign(init="he_normal"), features.width, 3))
    network = Network(features, head)
    card = build_card(network, backbone, ("a", "b", "c"), "test", 1.0)
    card = replace(card, head=card.head | {"solver": "none"}, data={"train": 6, "test": 6, "seed": 0})
    rng, names = np.random.default_rng(0), tuple("uvwxyz")
    digests, labels = rng.integers(0, 256, (6, 16), np.uint8), np.array([0, 1, 2, 0, 1, 2], np.int32)
    exam = build_record(digests, names, labels, rng.dirichlet(np.ones(3), 6), np.zeros(6, np.float32))
    known = KnownImages(rng.random((6, features.width)).astype(np.float16), labels, names, np.ones(20, np.float32))
    held = ImageRecords(digests, names, labels, np.ones(6, np.int8), np.empty(0, np.int64), given=False)
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


@pytest.mark.parametrize("name", [CARD, WEIGHTS, GRAPH, MEMORY, REPORT])
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
        Plan.read(model if kind == "folder" else model / CARD)


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
    "head.width ": (2**30, r"the head's 'mean' must be float32 \[1073741824\], and is float32 \[96\]"),
    "head.pca": (2**30, "the head lacks tensor 'axes'"),
    "head.pca ": (-3, "the head's 'pca' is a whole number"),
    "head.dropout": (2, "the head's 'dropout' is a number from 0 to below 1"),
    "unknown.layers": ([7], "'unknown.layers' must be a list of names"),
    "unknown.layers ": (["attic"], "do not belong together.*attic"),
    "unknown.layers  ": (["conv1.0"], "memory.safetensors and .* do not belong together: images are compared by"),
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
    "whole numbers": (
        lambda held: held.update({"head.mean": held["head.mean"].int()}),
        r"the head's 'mean' must be float32 \[96\], and is int32 \[96\]",
    ),
    "other shape": (
        lambda held: held.update({"head.mean": held["head.mean"][:3]}),
        r"the head's 'mean' must be float32 \[96\], and is float32 \[3\]",
    ),
    "one more": (
        lambda held: held.update({"head.extra": held["head.mean"] + 1}),
        "the head has an unknown tensor 'extra'",
    ),
    "one less": (lambda held: held.pop("head.mean"), "the head lacks tensor 'mean'"),
    "whole numbers in the backbone": (
        lambda held: held.update({STEM: held[STEM].int()}),
        r"conv1.0.weight is int32 \[.*\] and should be float32 \[",
    ),
    "other shape in the backbone": (
        lambda held: held.update({STEM: held[STEM][:3]}),
        r"conv1.0.weight is float32 \[3, 3, 3, 3\] and should be float32 \[",
    ),
    "one more in the backbone": (lambda held: held.update({STEM + "s": held[STEM] + 1}), "unexpected conv1.0.weights"),
    "one less in the backbone": (lambda held: held.pop(STEM), "missing conv1.0.weight"),
    "one of neither": (lambda held: held.update({"other.weight": held[STEM] + 1}), "unexpected other.weight"),
}
STEM = "features.backbone.conv1.0.weight"


@pytest.mark.parametrize("what", NUMBERS)
@pytest.mark.fault(37)
def test_weights_that_are_no_numbers_are_refused_by_name(model: Path, what: str) -> None:
    change, words = NUMBERS[what]
    changed(model, change)
    refused(model, WEIGHTS, "do not belong together", words)


# --- the graph --------------------------------------------------------------------------------------------------------


def redrawn(model: Path, change: Callable[[onnx.ModelProto], Any]) -> None:
    """Another graph, with its SHA-256 on the card; what is known of it stays."""
    graph = onnx.ModelProto.FromString((model / GRAPH).read_bytes())
    change(graph)
    put(model, GRAPH, graph.SerializeToString())


def top(graph: onnx.ModelProto) -> onnx.NodeProto:
    """The node that gives the features."""
    return next(node for node in graph.graph.node if "top" in node.output)


def elsewhere(path: str, *dims: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="secret", dims=dims, data_type=1, data_location="EXTERNAL")
    tensor.external_data.add(key="location", value=path)
    return tensor


def added(graph: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Nodes between the features and the output; the last of them reads 'before' and gives 'top'."""
    top(graph).output[:] = ["before" if name == "top" else name for name in top(graph).output]
    graph.graph.node.extend(nodes)


def node(kind: str, reads: list[str], gives: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, reads, [gives], **attributes)


def constant(graph: onnx.ModelProto) -> None:
    added(graph, node("Constant", [], "s", value=elsewhere("/etc/hostname", 1)), node("Add", ["before", "s"], "top"))


def initializer(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(elsewhere("/etc/hostname", 1))
    added(graph, node("Add", ["before", "secret"], "top"))


def branch(graph: onnx.ModelProto) -> None:
    value = onnx.helper.make_tensor_value_info("out", 1, None)
    inner = onnx.helper.make_graph([node("Identity", ["secret"], "out")], "b", [], [value], [elsewhere("x", 1)])
    yes = onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
    asked = node("If", ["yes"], "s", then_branch=inner, else_branch=inner)
    added(graph, node("Constant", [], "yes", value=yes), asked, node("Add", ["before", "s"], "top"))


def function(graph: onnx.ModelProto) -> None:
    inside = [node("Constant", [], "s", value=elsewhere("x", 1)), node("Add", ["a", "s"], "b")]
    opset = onnx.helper.make_opsetid("", 20)
    graph.functions.append(onnx.helper.make_function("own", "Own", ["a"], ["b"], inside, [opset]))
    graph.opset_import.append(onnx.helper.make_opsetid("own", 1))
    added(graph, node("Own", ["before"], "top", domain="own"))


def many(graph: onnx.ModelProto) -> None:
    sides = onnx.helper.make_tensor("sides", onnx.TensorProto.INT64, [2], [1 << 22, 1 << 22])
    zeros = node("ConstantOfShape", ["sides"], "zeros")
    mean = node("ReduceMean", ["zeros"], "mean", keepdims=0)
    added(graph, node("Constant", [], "sides", value=sides), zeros, mean, node("Add", ["before", "mean"], "top"))


def promised(graph: onnx.ModelProto) -> None:
    huge = onnx.TensorProto(name="h", dims=[1 << 40], data_type=1, raw_data=b"1234")
    added(graph, node("Constant", [], "h", value=huge), node("Add", ["before", "h"], "top"))


def wider(graph: onnx.ModelProto) -> None:
    added(graph, node("Concat", ["before", "before"], "top", axis=1))
    graph.graph.output[[each.name for each in graph.graph.output].index("top")].type.tensor_type.shape.dim[1].Clear()


def stranger(graph: onnx.ModelProto) -> None:
    graph.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    own = {"domain": "com.microsoft", "ep_cache_context": "/etc/hostname", "embed_mode": 0, "main_context": 1}
    added(graph, node("EPContext", ["before"], "top", **own))


def known(graph: onnx.ModelProto, **changes: Any) -> None:
    """Other facts."""
    held = next(each for each in graph.metadata_props if each.key == FACTS_PROPERTY)
    held.value = json.dumps(json.loads(held.value) | changes)


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "file in a constant": (constant, "some of its tensors lie in other files"),
    "file in a branch": (branch, "some of its tensors lie in other files"),
    "file in a function": (function, "some of its tensors lie in other files"),
    "file as a weight": (initializer, "missing secret"),
    "operator that reads a file": (stranger, "ONNX Runtime cannot open the graph: .*EPContext"),
    "unknown operator": (lambda graph: added(graph, node("Oracle", ["before"], "top")), "cannot open .*Oracle"),
    "no such value": (lambda graph: added(graph, node("Add", ["before", "ghost"], "top")), "cannot open .*ghost"),
    "4 bytes for 4 terabytes": (promised, "ONNX Runtime cannot open the graph"),
    "wider than it states": (wider, r"gives \[192\] as top, and states \[96\]"),
    "no facts": (lambda graph: graph.ClearField("metadata_props"), "it is no graph that graft wrote"),
    "facts twice": (
        lambda graph: graph.metadata_props.extend([*graph.metadata_props]),
        "it is no graph that graft wrote",
    ),
    "no output": (lambda graph: graph.graph.ClearField("output"), "has no output 'top'"),
    "shapes that are none": (lambda graph: known(graph, shapes={"top": [-1]}), "-1 is no size"),
    "shapes as a text": (lambda graph: known(graph, shapes="top"), "it is no graph that graft wrote"),
    "stages that are none": (lambda graph: known(graph, stages=[7]), "it is no graph that graft wrote"),
}


@pytest.mark.parametrize("what", GRAPHS)
def test_a_graph_that_graft_did_not_write_is_refused(model: Path, what: str) -> None:
    change, words = GRAPHS[what]
    redrawn(model, change)
    refused(model, f"{GRAPH} and .*{WEIGHTS} do not belong together: .*{words}")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [({"top": [7]}, "the layers give 7 features, the head takes 96"), ({}, "The graph has no output 'top'")],
)
def test_a_graph_for_another_card_is_refused(model: Path, shapes: dict[str, Any], words: str) -> None:
    redrawn(model, lambda graph: known(graph, shapes=shapes))
    refused(model, f"{WEIGHTS} and .*{CARD} do not belong together: {words}")


def test_numbers_beyond_all_memory_are_refused_when_they_are_asked_for(model: Path) -> None:
    redrawn(model, many)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run the graph: .*ConstantOfShape"):
        load(model).predict(IMAGE)


def test_so_are_one_of_another_network_one_cut_anywhere_and_what_is_none(model: Path) -> None:
    other = graph.dump(start("test_vit").graph)
    put(model, GRAPH, other)
    refused(model, f"{GRAPH} and .*{WEIGHTS} do not belong together: missing blocks.0.attn")
    whole = graph.dump(start().graph)
    cuts = [whole[: len(whole) * part // 9] for part in range(9)]
    for content in (b"<html>", b"\x08\x0a", *cuts, whole[:-1]):
        put(model, GRAPH, content)
        refused(model, rf"{GRAPH} and .*{WEIGHTS} do not belong together: it is no graph that graft wrote")
    put(model, GRAPH, whole)
    assert load(model).classes == ("a", "b", "c")


def test_a_field_that_only_one_of_two_readers_sees_hides_no_file(model: Path) -> None:
    """protobuf cuts what begins a field to 32 bits, and overlooks a number that is written as a text."""
    whole = (model / GRAPH).read_bytes()
    hidden = protobuf.encode_field(5, elsewhere("/etc/hostname", 1).SerializeToString())
    far = b"\xba\x80\x80\x80\x10" + hidden[1:]  # field 7 + 2^29, which is the graph's once more
    put(model, GRAPH, whole + far)
    refused(model, GRAPH, "do not belong together: it is no graph that graft wrote .*no field")
    graph = onnx.ModelProto.FromString(whole)
    for spelling in (protobuf.encode_field(14, b"\0"), b"\x70\x81\x80\x80\x80\x10"):
        tensor = elsewhere("/etc/hostname", 1).SerializeToString() + spelling
        inner = graph.graph.SerializeToString() + protobuf.encode_field(5, tensor)
        rest = onnx.ModelProto()
        rest.CopyFrom(graph)
        rest.ClearField("graph")
        put(model, GRAPH, rest.SerializeToString() + protobuf.encode_field(7, inner))
        refused(model, "do not belong together", "missing secret|should be a number")


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
        sides = np.array([[0, 0], [1, 1], [2, 2], [0, 1], [4, 4]], np.int32)
        network = classifier.network
        head = network.head.with_tensors({"judge.sides": sides})
        classifier = replace(classifier, network=replace(network, head=head))
    model = classifier.save(tmp_path / "model")
    assert load(model).classes == ("a", "b", "c")
    changed(model, lambda held: held[f"head.judge.{name}"].view(-1)[0].fill_(value))
    refused(model, WEIGHTS, words)


# --- the memory -------------------------------------------------------------------------------------------------------


def forgotten(model: Path, **held: Any) -> None:
    """Other arrays in the memory; None takes one out."""
    memory = packing.load((model / MEMORY).read_bytes())
    memory |= {name.replace("_", "."): value for name, value in held.items()}
    put(model, MEMORY, packing.save({name: value for name, value in memory.items() if value is not None}))


def packed(text: bytes) -> np.ndarray:
    return np.frombuffer(zlib.compress(text, 1), np.uint8)  # the bomb is 300 MB


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
    "parts": ({"images_parts": np.full(6, 9, np.int8)}, "'images.parts' has numbers"),
    "groups": ({"images_groups": np.zeros(2, np.int64)}, "'images.groups' is 6 of"),
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
    head = broken.network.head
    huge = {name: np.full_like(head.tensors[name], 3e38) for name in ("judge.weight", "scale")}
    return replace(broken, network=replace(broken.network, head=head.with_tensors(huge)))


def test_an_answer_that_is_no_number_is_a_fault_of_the_image(broken: Classifier, classifier: Classifier) -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 8, 8, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = broken.predict(images)
        assert [(each.answer, each.fault, each.label) for each in said] == [(None, NOT_FINITE, "")] * 3
        assert json.loads(json.dumps([each.as_dict() for each in said], allow_nan=False))[0]["probability"] == 0.0
    assert [each.fault for each in classifier.predict(images)] == ["", "", ""]


def test_a_score_counts_it_among_the_faults(broken: Classifier, tmp_path: Path) -> None:
    from PIL import Image

    for name in "abc":
        (tmp_path / name).mkdir()
        for at in range(2):
            Image.fromarray(np.full((8, 8, 3), 99 * at + ord(name) % 9, np.uint8)).save(tmp_path / name / f"{at}.png")
    with pytest.raises(DataError, match=rf"None of the 6 images can be used, the first because: {NOT_FINITE}"):
        broken.evaluate(tmp_path)
