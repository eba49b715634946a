"""An exported file says what it is before anything in it runs; whatever else it may be is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import exported
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from graft_runtime import contract, protobuf
from graft_runtime.contract import (
    CARD,
    CHECKSUM,
    DIGEST,
    EVIDENCE,
    EXPORT,
    Export,
    ModelFileError,
    TrainingImage,
    append_description,
    read_description,
    read_training_images,
)
from graft_runtime.predictor import load
from graft_runtime.serve.model import Model


def test_what_was_written_is_read_again() -> None:
    about = Export("int8", (0.25, 0.5), {"worst": 1e-6})
    card = exported.card(classes=("naïve", "日本", "дог"), temperature=2.5)
    assert read_description(append_description(exported.model(), card, about)) == (card, about)


def test_any_reader_of_onnx_finds_the_same_properties() -> None:
    data = exported.file()
    found = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert found.keys() == {CARD, EXPORT, DIGEST, CHECKSUM}
    onnx.checker.check_model(onnx.load_from_string(data))
    session = onnxruntime.InferenceSession(data)
    assert session.get_modelmeta().custom_metadata_map == found


def test_what_is_no_export_is_told() -> None:
    for other in (b"", b"\x89PNG\r\n\x1a\n", b"hello, world", bytes(1000)):
        with pytest.raises(ModelFileError):
            read_description(other)
    with pytest.raises(ModelFileError, match=r"'graft.card' among its properties"):
        read_description(exported.model())


@pytest.mark.fault(33)
def test_a_truncated_file_is_refused_wherever_it_ends() -> None:
    data = exported.file()
    for end in range(0, len(data), 7):
        with pytest.raises(ModelFileError):
            read_description(data[:end])


@pytest.mark.slow
@pytest.mark.fault(33)
def test_any_bit_that_turned_is_found_in_the_description_as_in_the_graph() -> None:
    data = exported.file()
    for at in range(0, 8 * len(data), 5):
        turned = bytearray(data)
        turned[at // 8] ^= 1 << at % 8
        with pytest.raises(ModelFileError):
            read_description(bytes(turned))
    other = data.replace(b'"red"', b'"rad"')
    with pytest.raises(ModelFileError, match="its content is not what was written"):
        read_description(other)


TURNED = """
import { readFileSync } from "node:fs";
import { decided, described, intact } from "./contract.mjs";
const model = readFileSync("colours.onnx"), fits = async (bytes) => (await intact(bytes), described(bytes));
const accepted = [];
const trial = (what, bytes) => fits(bytes).then(() => accepted.push(what), () => {});
for (let at = 0; at < 8 * model.length; at += 37) {
  const turned = Buffer.from(model);
  turned[at >> 3] ^= 1 << (at & 7);
  await trial(`bit ${at}`, turned);
}
for (let end = 0; end < model.length; end += 7) await trial(`cut at ${end}`, model.subarray(0, end));
const about = await fits(model);
let told = "";
try {
  decided(about, { probabilities: { data: [0.5, 0.5] }, unknown: { data: [0] } });
} catch (error) {
  told = error.message;
}
await intact(readFileSync("before.onnx"));
console.log(JSON.stringify([accepted, about.card.classes, told]));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_a_page_finds_every_turned_bit_as_well(tmp_path: Path) -> None:
    (tmp_path / "contract.mjs").write_bytes((Path(contract.__file__).parent / "page/contract.js").read_bytes())
    (tmp_path / "colours.onnx").write_bytes(exported.file())
    (tmp_path / "before.onnx").write_bytes(before())
    (tmp_path / "turned.mjs").write_text(TURNED)
    found = subprocess.run(["node", "turned.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    told = "the file names 3 classes, and its network has 2"
    assert json.loads(found) == [[], ["red", "green", "blue"], told]


def before() -> bytes:
    """A file from before there was a checksum of all of it."""
    about = contract.build_properties(exported.card(), Export()) | {DIGEST: contract.hash_graph(exported.model())}
    return exported.model() + b"".join(protobuf.encode_property(key, text) for key, text in about.items())


def test_a_file_of_before_is_read_and_its_graph_is_checked() -> None:
    data = before()
    assert read_description(data) == (exported.card(), Export())
    at = data.index(b"numbers")
    with pytest.raises(ModelFileError, match="damaged"):
        read_description(data[:at] + b"m" + data[at + 1 :])


def test_a_checksum_cannot_be_lost_unnoticed() -> None:
    data = exported.file()
    whole = onnx.load_from_string(data)
    kept = [entry for entry in whole.metadata_props if entry.key != CHECKSUM]
    del whole.metadata_props[:]
    whole.metadata_props.extend(kept)
    with pytest.raises(ModelFileError, match="damaged"):
        read_description(whole.SerializeToString())
    twice = data + protobuf.encode_property(CARD, "{}")
    with pytest.raises(ModelFileError, match="no ONNX file"):
        read_description(twice)


def test_random_damage_never_raises_anything_else() -> None:
    data, rng = exported.file(), random.Random(0)
    for _ in range(500):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            read_description(bytes(broken))
        except ModelFileError:
            continue


SHOWN = (TrainingImage("日/1.jpg", ("red",), "AAAA"), TrainingImage("2.jpg", ("red", "blue")))


def test_evidence_is_read_again_and_a_file_without_any_has_none() -> None:
    data = append_description(exported.model(), exported.card(), Export(), SHOWN)
    about = read_description(data)[1]
    assert read_training_images(data, about) == SHOWN
    assert read_training_images(exported.file(), read_description(exported.file())[1]) == ()
    assert EVIDENCE.encode() not in exported.file()


def test_evidence_that_was_changed_or_lost_is_told() -> None:
    data = append_description(exported.model(), exported.card(), Export(), SHOWN)
    about = read_description(data)[1]
    for other in (data.replace(b"AAAA", b"AAAB"), exported.file()):
        with pytest.raises(ModelFileError, match=r"'graft\.evidence' is damaged, or not there"):
            read_training_images(other, about)


@pytest.mark.parametrize("wrong", ['"labels": "a"', '"labels": [3]', '"other": []', '"thumbnail": "<p>"'])
def test_evidence_that_graft_would_not_write_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f'{{"images": [{{"image": "a.jpg", "labels": [], "thumbnail": null, {wrong}}}]}}'
    about = Export(evidence=hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(protobuf, "read_properties", lambda _: {EVIDENCE: text})
    with pytest.raises(ModelFileError, match="is not what graft writes"):
        read_training_images(b"", about)


@pytest.mark.fault(33)
def test_newer_files_are_refused_with_what_to_do() -> None:
    with pytest.raises(ModelFileError, match=r"contract 2, this version reads up to 1: please update"):
        read_description(exported.file(replace(Export(), contract=2)))
    with pytest.raises(ModelFileError, match=r"schema 99.*please update"):
        read_description(exported.file(schema=99))


def test_tensors_in_other_files_are_refused() -> None:
    with pytest.raises(ModelFileError, match="in other files"):
        read_description(exported.with_external_data())


def far(name: str = "far") -> TensorProto:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def inside(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "inner", [], [])


PLAIN = {"inputs": [], "outputs": ["out"]}
SPARSE = onnx.SparseTensorProto(values=far(), dims=[1])
CONSTANT = helper.make_node("Constant", **PLAIN, value=far())
PLACES = {  # where a tensor may stand, and the node that holds it there
    "attribute": CONSTANT,
    "tensors": helper.make_node("Other", **PLAIN, many=[far(), far()]),
    "sparse": helper.make_node("Constant", **PLAIN, sparse_value=SPARSE),
    "sparse tensors": helper.make_node("Other", **PLAIN, many=[SPARSE]),
    "branch": helper.make_node("If", **PLAIN, then_branch=helper.make_graph([], "inner", [], [], [far()])),
    "branch of a loop": helper.make_node(
        "Loop", **PLAIN, body=inside(helper.make_node("If", **PLAIN, a=inside(CONSTANT)))
    ),
    "graphs": helper.make_node("Other", **PLAIN, many=[inside(CONSTANT), inside(CONSTANT)]),
}


@pytest.mark.parametrize("place", [*PLACES, "sparse initializer", "function", "training"])
def test_wherever_a_tensor_in_another_file_stands_it_is_refused(place: str) -> None:
    found = onnx.load_from_string(exported.model())
    if place in PLACES:
        found.graph.node.append(PLACES[place])
    elif place == "function":
        found.functions.append(helper.make_function("own", "f", [], ["out"], [CONSTANT], []))
    elif place == "training":
        found.training_info.add().algorithm.initializer.append(far())
    else:
        found.graph.sparse_initializer.append(SPARSE)
    with pytest.raises(ModelFileError, match="in other files"):
        read_description(append_description(found.SerializeToString(), exported.card(), Export()))


def test_the_places_of_tensors_are_those_of_onnx() -> None:
    kinds, waiting = dict[str, dict[int, str]](), [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        kind = waiting.pop()
        below = {field.number: field.message_type for field in kind.fields if field.message_type}
        kinds[kind.name] = {number: inner.name for number, inner in below.items()}
        waiting += [inner for inner in below.values() if inner.name not in kinds]
    holding, before = {"TensorProto"}, 0
    while len(holding) > before:
        before = len(holding)
        holding |= {kind for kind, below in kinds.items() if holding & set(below.values())}
    want = {kind: {n: inner for n, inner in kinds[kind].items() if inner in holding} for kind in holding}
    want.pop("TensorProto")
    assert want == protobuf.SUBMESSAGES
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number == protobuf.EXTERNAL_DATA


def test_a_graph_in_a_graph_a_thousand_times_is_no_trouble() -> None:
    found = onnx.load_from_string(exported.model())
    inner = protobuf.encode_field(1, b"")
    for _ in range(3000):  # a graph with a node with an attribute with a graph
        inner = protobuf.encode_field(1, protobuf.encode_field(5, protobuf.encode_field(6, inner)))
    assert not protobuf.has_external_data(found.SerializeToString() + protobuf.encode_field(7, inner))


# --- a description that the network does not fit ----------------------------------------------------------------------


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": ("red", "green", "blue", "x")}, "names 4 classes, and its output 'probabilities' has"),
        ({"classes": ("red", "green")}, "names 2 classes, and its output 'probabilities' has"),
        ({"classes": ()}, "names 0 classes"),
        ({"head": {"kind": "linear", "classes": 4}}, "its head is for 4"),
        ({"thresholds": (0.5, 0.5)}, "2 thresholds for 3 classes"),
        ({"thresholds": (0.5, 0.5, float("nan"))}, "'thresholds' is no list of numbers"),
        ({"scales": (1.0, 1.0), "shifts": (1.0, 1.0)}, "2 scales for 3 classes"),
        ({"scales": (1.0, 1.0, float("inf")), "shifts": (0.0, 0.0, 0.0)}, "'scales' is no list of numbers"),
        ({"temperature": float("inf")}, "'temperature' cannot be"),
        ({"temperature": float("nan")}, "'temperature' cannot be"),
        ({"sets": (0.5,)}, "do not belong together"),
        ({"preprocess": {"size": 32}}, "its preprocessing lacks 'resize'"),
        ({"preprocess": {"size": -1, "resize": 32}}, "'preprocess.size' must be a whole number"),
        ({"preprocess": {"size": 32, "resize": 10**9}}, "'preprocess.resize' must be a whole number"),
    ],
)
def test_a_description_that_does_not_fit_the_network_is_refused_at_load(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(why)):
        load(exported.file(**changes))


@pytest.mark.fault(44)
def test_a_server_keeps_its_model_where_the_new_one_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "colours.onnx"
    path.write_bytes(exported.file())
    model, heard = Model(path, 1), list[str]()
    served = model.served
    others = {
        "names 4 classes": exported.file(classes=("a", "b", "c", "d")),
        "not what was written": exported.file().replace(b'"red"', b'"rad"'),
        "in other files": exported.with_external_data(),
        "2 thresholds for 3": exported.file(thresholds=(0.5, 0.5)),
    }

    async def replaced() -> None:
        watch = asyncio.create_task(model.watch(lambda _, why: heard.append(why), every=0.01))
        for number, data in enumerate(others.values()):
            path.write_bytes(data)
            while len(heard) == number:
                await asyncio.sleep(0.01)
        watch.cancel()

    asyncio.run(asyncio.wait_for(replaced(), 30))
    assert [why in told for why, told in zip(others, heard, strict=True)] == [True] * 4
    assert model.served is served


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
@pytest.mark.parametrize("kind", ["pipe", "folder", "zero", "huge"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "colours.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "zero":
        path = Path("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(contract.MAX_FILE_BYTES + 1)
    with pytest.raises(ModelFileError, match="holds 2 GB" if kind == "huge" else "it is no regular file"):
        load(path)


def test_a_saved_classifier_is_told_from_an_exported_file(tmp_path: Path) -> None:
    (tmp_path / "model.json").touch()
    with pytest.raises(
        ModelFileError, match=r"it is a saved classifier; `graft export .* -o model\.onnx` makes a file of"
    ):
        load(tmp_path)


def test_a_network_whose_outputs_do_not_say_their_size_is_tried() -> None:
    free = exported.GRAPH.replace("float[n, 3] probabilities", "float[n, classes] probabilities")
    free = free.replace("whole = {255.0}", "whole = {255.0}, bool[3] mask = {1, 1, 1}")
    free = free.replace(
        "probabilities = Div(means, safe)", "all = Div(means, safe) probabilities = Compress<axis = 1>(all, mask)"
    )
    model = onnx.parser.parse_model(free).SerializeToString()
    assert (
        load(append_description(model, exported.card(), Export())).predict(exported.image((90, 0, 0)))[0].label == "red"
    )
    with pytest.raises(ModelFileError, match=r"names 2 classes, and its output 'probabilities' has \[1, 3\]"):
        load(append_description(model, exported.card(classes=("red", "green")), Export()))


@pytest.mark.parametrize("strays", ["[NaN]", "[1, 0.5]", "[1e999]", "[true, null]"])
def test_scores_that_no_limit_can_be_told_from_are_refused(strays: str) -> None:
    told = contract.build_properties(exported.card(), Export())
    told[EXPORT] = told[EXPORT].replace('"strays": []', f'"strays": {strays}')
    with pytest.raises(ModelFileError, match="its strays"):
        contract.parse_properties(told)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": 2, "classes": ' + "[" * 100_000])
def test_json_that_nests_without_end_is_refused(text: str) -> None:
    told = contract.build_properties(exported.card(), Export())
    for name in (CARD, EXPORT):
        with pytest.raises(ModelFileError, match="description cannot be used"):
            contract.parse_properties(told | {name: text})
    half = told[CARD].replace('"red"', '"\\ud800"')
    with pytest.raises(ModelFileError, match="'classes' is no list of names"):
        contract.parse_properties(told | {CARD: half})
    huge = told[CARD].replace('"temperature": 1.0', '"temperature": 1' + "0" * 400)
    with pytest.raises(ModelFileError, match="description cannot be used"):
        contract.parse_properties(told | {CARD: huge})


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"contract": "1"}', '{"contract": 1, "strays": "x"}', '{"contract": 1, "parity": 3}']
)
def test_a_description_that_cannot_be_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.json, "dumps", lambda *_args, **_words: text)
    data = append_description(exported.model(), exported.card(), Export())
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="description cannot be used"):
        read_description(data)
