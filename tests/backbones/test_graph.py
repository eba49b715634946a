"""A graph: pruned to what is asked for, run, made whole and taken apart again, and refused where it does not fit."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from graft.backbones import graph as graphs
from graft.backbones.graph import (
    PREPARED,
    TOP,
    Graph,
    Stage,
    append_nodes,
    graph_key,
    inline_weights,
    open_session,
    prune_graph,
    split_weights,
)
from graft.errors import ModelError


def small() -> Graph:
    """Two convolutions: the first pooled is one output, the second pooled the other."""
    rng = np.random.default_rng(0)
    weights = {
        "first.weight": rng.standard_normal((4, 3, 3, 3), np.float32),
        "second.weight": rng.standard_normal((5, 4, 1, 1), np.float32),
        "unused.weight": np.zeros(3, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [PREPARED], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "first.weight"], ["map/first"]),
        helper.make_node("ReduceMean", ["map/first", "space"], ["pooled/first"], keepdims=0),
        helper.make_node("Relu", ["map/first"], ["active"]),
        helper.make_node("Conv", ["active", "second.weight"], ["map/second"]),
        helper.make_node("ReduceMean", ["map/second", "space"], [TOP], keepdims=0),
    ]
    outputs = [value("map/first", 4, 6, 6), value("pooled/first", 4), value("map/second", 5, 6, 6), value(TOP, 5)]
    images = helper.make_tensor_value_info(PREPARED, TensorProto.UINT8, ["n", 3, 8, 8])
    constants = [numpy_helper.from_array(each, name) for name, each in weights.items()]
    constants.append(numpy_helper.from_array(np.array([2, 3]), "space"))
    inner = helper.make_graph(nodes, "small", [images], outputs, constants)
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    structure, tensors = split_weights(model, list(weights))
    return Graph(structure, tensors, (Stage("first", (4, 6, 6), 108), Stage("second", (5, 6, 6), 20)), True)


def value(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def whole(graph: Graph, given: NDArray[np.uint8], outputs: list[str]) -> list[NDArray[Any]]:
    opened = onnxruntime.InferenceSession(inline_weights(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in opened.run(outputs, {PREPARED: given})]


def test_only_keeps_what_the_outputs_need() -> None:
    kept = prune_graph(small(), ["pooled/first"])
    inner = onnx.ModelProto.FromString(kept.structure).graph
    assert [node.op_type for node in inner.node] == ["Cast", "Conv", "ReduceMean"]
    assert [each.name for each in inner.initializer] == ["first.weight", "space"]
    assert [each.name for each in inner.output] == ["pooled/first"]
    assert list(kept.tensors) == ["first.weight"]
    assert (kept.stages, kept.top_is_average) == (small().stages, True)


def test_only_keeps_what_branches_read_from_around_them() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Mul", [TOP, factor], [name])], name, [], [value(name, 5)]
        )
        for name, factor in (("then", "twice.weight"), ("else", "thrice.weight"))
    }
    chosen = helper.make_node("If", ["yes"], ["chosen"], **branches)
    factors = {"twice.weight": np.float32([2]), "thrice.weight": np.float32([3])}
    yes = numpy_helper.from_array(np.array(True), "yes")
    kept = prune_graph(append_nodes(small(), [chosen], factors, [value("chosen", 5)], [yes]), ["chosen"])
    assert sorted(kept.tensors) == ["first.weight", "second.weight", "thrice.weight", "twice.weight"]
    got = open_session(kept).run(images(2), ["chosen"])[0]
    np.testing.assert_array_equal(got, 2 * open_session(small()).run(images(2), [TOP])[0])


def test_only_names_the_outputs_that_there_are() -> None:
    with pytest.raises(ModelError, match=r"no output 'pooled/third'; it has map/first, pooled/first, map/second, top"):
        prune_graph(small(), [TOP, "pooled/third"])


@pytest.mark.parametrize("count", [0, 1, 8, 19])
def test_a_session_answers_as_the_whole_model(count: int) -> None:
    outputs = [TOP, "map/first", "pooled/first"]
    got = open_session(small(), threads=1).run(images(count), outputs)
    for own, want in zip(got, whole(small(), images(count), outputs), strict=True):
        np.testing.assert_allclose(own, want, rtol=1e-6, atol=1e-4)
        assert own.shape == want.shape


def test_a_session_computes_only_what_is_asked_for() -> None:
    made = open_session(small())
    made.run(images(1), ["pooled/first"])
    made.run(images(1), ["pooled/first"])
    assert [list(each.tensors) for each in made._opened.values()] == [["first.weight"]]


def test_a_session_that_computes_the_same_gives_fewer_outputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session of ONNX Runtime holds a copy of some weights, 0.5 GB of VGG-16's."""
    monkeypatch.setattr(graphs, "MAX_SHARED_GROWTH", 1.3)
    running = open_session(small())
    wide = running.open(["map/second", TOP])
    assert running.open([TOP]) is wide
    assert running.open(["pooled/first"]) is not wide  # not among them
    assert running.open(["map/first"]) is not running.open(["map/first", TOP])  # much less to compute
    np.testing.assert_array_equal(running.run(images(3), [TOP])[0], whole(small(), images(3), [TOP])[0])


def test_split_and_inlined_are_opposites() -> None:
    graph = small()
    structure, tensors = split_weights(inline_weights(graph), [name for name in graph.tensors])
    assert structure == graph.structure
    for name, tensor in graph.tensors.items():
        np.testing.assert_array_equal(tensors[name], tensor)
    with pytest.raises(ModelError, match=r"no weights third\.weight"):
        split_weights(inline_weights(graph), ["third.weight"])


def test_a_structure_holds_no_weights() -> None:
    kinds = {each.name: each.data_location for each in onnx.ModelProto.FromString(small().structure).graph.initializer}
    assert kinds == {"first.weight": 1, "second.weight": 1, "unused.weight": 1, "space": 0}


def test_joined_puts_nodes_behind() -> None:
    head = helper.make_node("MatMul", [TOP, "head.weight"], ["logits"])
    weight = np.random.default_rng(2).standard_normal((5, 2), np.float32)
    graph = append_nodes(small(), [head], {"head.weight": weight}, [value("logits", 2)])
    top, logits = open_session(graph).run(images(3), [TOP, "logits"])
    np.testing.assert_allclose(logits, top @ weight, rtol=1e-5)
    onnx.checker.check_model(inline_weights(graph), full_check=True)
    with pytest.raises(ModelError, match=r"two values of one name: logits"):
        append_nodes(graph, [head], {}, [])


def test_the_key_is_that_of_what_is_computed() -> None:
    graph = small()
    other = {**graph.tensors, "second.weight": graph.tensors["second.weight"] + np.float32(1e-6)}
    changed = Graph(graph.structure, other, graph.stages)
    assert graph_key(graph) == graph_key(small())
    assert graph_key(graph) != graph_key(changed)
    assert (
        graph_key(prune_graph(graph, ["pooled/first"]))
        == graph_key(prune_graph(changed, ["pooled/first"]))
        != graph_key(prune_graph(graph, [TOP]))
    )


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("first.weight", None, r"first\.weight is missing"),
        (
            "first.weight",
            np.zeros((4, 3, 3), np.float32),
            r"is float32 \[4, 3, 3\] and should be float32 \[4, 3, 3, 3\]",
        ),
        ("first.weight", np.zeros((4, 3, 3, 3)), r"is float64 \[4, 3, 3, 3\] and should be float32 \[4, 3, 3, 3\]"),
        ("second.weight", np.zeros((500, 4, 1, 1), np.float32), r"is float32 \[500, 4, 1, 1\] and should be"),
    ],
)
def test_weights_that_do_not_fit(name: str, tensor: NDArray[Any] | None, message: str) -> None:
    tensors = {other: each for other, each in small().tensors.items() if other != name}
    graph = Graph(small().structure, tensors if tensor is None else {**tensors, name: tensor}, ())
    for what in (open_session, graph_key, inline_weights):
        with pytest.raises(ModelError, match=message):
            what(graph)


def test_a_damaged_structure() -> None:
    structure = small().structure
    for damaged in (b"", b"<html>", structure[:-9], structure[: len(structure) // 2], b"\x3a\xff\xff\xff\xff\x0f"):
        for what in (open_session, graph_key, lambda graph: prune_graph(graph, [TOP])):
            with pytest.raises(ModelError, match=r"structure of the graph is damaged"):
                what(Graph(damaged, small().tensors, ()))
    kept = onnx.ModelProto.FromString(structure)
    kept.graph.node[1].op_type = "Convolute"
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot open the graph: .*Convolute"):
        open_session(Graph(kept.SerializeToString(), small().tensors, ())).run(images(1), [TOP])
    with pytest.raises(ModelError, match=r"structure of the graph is damaged: field 8 is no text"):
        open_session(Graph(structure.replace(b"first.weight", b"first\xffweight"), small().tensors, ()))


def test_images_of_another_size() -> None:
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run the graph: .*invalid dimensions"):
        open_session(small()).run(images(1)[:, :, 1:], [TOP])


def test_weights_in_any_layout() -> None:
    """Slices, other orders and unaligned bytes of a file: what is computed is the same."""
    graph = small()
    first, second = graph.tensors["first.weight"], graph.tensors["second.weight"]
    unaligned = np.frombuffer(b"x" + second.tobytes(), np.uint8)[1:].view(np.float32).reshape(second.shape)
    odd = Graph(
        graph.structure, {**graph.tensors, "first.weight": np.asfortranarray(first), "second.weight": unaligned}, ()
    )
    np.testing.assert_array_equal(
        open_session(odd).run(images(2), [TOP])[0], open_session(graph).run(images(2), [TOP])[0]
    )
    assert graph_key(odd) == graph_key(graph)


def test_batches_are_those_of_the_engine() -> None:
    assert open_session(small()).batch == graphs.BATCH == 8
