"""An ONNX file of somebody else's: as a graph it says what it says, and what must not run does not."""

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from graft.backbones import foreign, inspection
from graft.backbones.foreign import load_onnx
from graft.backbones.graph import LAST, MAP, POOLED, PREPARED, TOP, inline_weights, open_session
from graft.errors import WeightsError

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 8, 8), np.float32)


def model(
    nodes: list[Any] | None = None,
    constants: dict[str, NDArray[Any]] | None = None,
    kind: int = FLOAT,
    shape: tuple[Any, ...] = ("n", 3, 16, 16),
    outputs: tuple[str, ...] = ("map",),
    opset: int = 20,
) -> Any:
    """A convolution, then what the test adds to it."""
    given = [helper.make_node("Cast", ["x"], ["float"], to=FLOAT), helper.make_node("Conv", ["float", "w"], ["map"])]
    weights = {"w": WEIGHT, **(constants or {})}
    graph = helper.make_graph(
        [*given, *(nodes or [])],
        "file",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in weights.items()],
    )
    for each in graph.output:
        each.type.tensor_type.elem_type = FLOAT
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(made: Any, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def images(side: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (9, 3, side, side), dtype=np.uint8)


def run(made: Any, given: NDArray[Any], output: str) -> NDArray[Any]:
    where = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(where.run([output], {"x": given})[0])


def test_a_map_is_pooled(tmp_path: Path) -> None:
    made = model(kind=UINT8)
    graph, _ = load_onnx(save(made, tmp_path))
    want = run(made, images(), "map")
    got = open_session(graph).run(images(), [MAP + "map", POOLED + "map", TOP, LAST])
    for own, each in zip(got, (want, want.mean((2, 3)), want.mean((2, 3)), want), strict=True):
        np.testing.assert_allclose(own, each, rtol=1e-5, atol=1e-3)
    assert [(each.name, each.shape, each.parameters) for each in graph.stages] == [("map", (8, 9, 9), WEIGHT.size)]
    assert graph.top_is_average
    assert list(graph.tensors) == ["net/w"]
    onnx.checker.check_model(inline_weights(graph), full_check=True)


def test_float_images_are_normalised(tmp_path: Path) -> None:
    graph, _ = load_onnx(save(model(), tmp_path), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    mean, std = (np.reshape(each, (1, 3, 1, 1)) for each in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    want = run(model(), ((images() / 255 - mean) / std).astype(np.float32), "map")
    np.testing.assert_allclose(open_session(graph).run(images(), [LAST])[0], want, rtol=1e-5, atol=1e-4)


def several() -> Any:
    """A map, tokens and features, under names that could be ours."""
    nodes = [
        helper.make_node("Reshape", ["map", "places"], ["rows"]),
        helper.make_node("Transpose", ["rows"], [TOP], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", [TOP, "second"], ["middle"], keepdims=0),
        helper.make_node("MatMul", ["middle", "head"], [PREPARED]),
    ]
    head = np.random.default_rng(2).standard_normal((8, 300), np.float32)
    constants = {"places": np.array([0, 8, -1]), "second": np.array([1]), "head": head}
    return model(nodes, constants, outputs=("map", TOP, PREPARED))


def test_outputs_before_the_last_are_stages(tmp_path: Path) -> None:
    graph, _ = load_onnx(save(several(), tmp_path), mean=(0, 0, 0), std=(1, 1, 1))
    assert [(each.name, each.shape, each.parameters) for each in graph.stages] == [
        ("map", (8, 9, 9), WEIGHT.size),
        (TOP, (81, 8), 0),
        (PREPARED, (300,), 2400),
    ]
    assert not graph.top_is_average
    given = (images() / 255).astype(np.float32)
    want = {POOLED + name: run(several(), given, name) for name in (TOP, PREPARED)} | {
        LAST: run(several(), given, "map")
    }
    want[POOLED + TOP] = want[POOLED + TOP].mean(1)
    want[TOP] = want[POOLED + PREPARED]
    for name, own in zip(want, open_session(graph).run(images(), list(want)), strict=True):
        np.testing.assert_allclose(own, want[name], rtol=1e-4, atol=1e-4)


def test_the_output_that_is_named(tmp_path: Path) -> None:
    graph, _ = load_onnx(save(several(), tmp_path), output="map")
    assert [each.name for each in graph.stages] == ["map"]
    assert graph.top_is_average
    assert list(graph.tensors) == ["net/w"]
    with pytest.raises(
        WeightsError, match=r"net\.onnx cannot be used as a network: it has no output 'last'; there are m"
    ):
        load_onnx(save(several(), tmp_path), output="last")


@pytest.mark.parametrize(("name", "opset"), [("test_resnet", 13), ("test_vit", 14), ("test_efficientnet", 17)])
def test_what_pytorch_exports(name: str, opset: int, tmp_path: Path) -> None:
    network = timm.create_model(name, num_classes=0).eval()
    side = network.default_cfg["input_size"][-1]
    free = {"x": {0: "n"}, "y": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated
        torch.onnx.export(
            network,
            (torch.rand(2, 3, side, side),),
            tmp_path / "net.onnx",
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=free,
        )
    graph, _ = load_onnx(tmp_path / "net.onnx", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with torch.no_grad():
        want = network((torch.from_numpy(images(side)) / 255 - 0.5) / 0.5).numpy()
    got = open_session(graph).run(images(side), [TOP])[0]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


# --- what is refused --------------------------------------------------------------------------------------------------


def elsewhere() -> Any:
    made = model()
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    return made


def announced() -> Any:
    made = model()
    made.graph.initializer[0].dims[:] = [1 << 20, 1 << 20, 3, 3]
    return made


def inside(kind: str) -> Any:
    """A branch in a branch that holds what must not be."""
    inner: Any = helper.make_node("Relu", ["map"], ["b"])
    if kind == "domain":
        inner = helper.make_node("Evil", ["map"], ["b"], domain="com.evil", name="deep")
    elif kind == "external":
        inner = helper.make_node("Constant", [], ["b"], value=elsewhere().graph.initializer[0])
    for output in ("b", "c"):
        graph = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info(output, FLOAT, None)])
        inner = helper.make_node(
            "If", ["yes"], ["c" if output == "b" else "map2"], then_branch=graph, else_branch=graph
        )
    return model([inner], {"yes": np.array(True)}, outputs=("map2",))


def function() -> Any:
    made = model([helper.make_node("F", ["map"], ["y"], domain="mine")], outputs=("y",))
    made.opset_import.append(helper.make_opsetid("mine", 1))
    relu = helper.make_node("Relu", ["a"], ["b"])
    made.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [relu], [helper.make_opsetid("", 20)]))
    return made


def blown(*nodes: Any, **constants: Any) -> Any:
    """Nodes whose last output, made of nothing but constants, is added to the map."""
    first = nodes[-1].output[0]
    end = [
        helper.make_node("ReduceMax", [first], ["most"], keepdims=0),
        helper.make_node("Add", ["map", "most"], ["y"]),
    ]
    return model([*nodes, *end], {name: np.asarray(each) for name, each in constants.items()}, outputs=("y",))


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


LOOP = helper.make_graph(
    [node("Identity", "go", "on"), node("Identity", "s", "t")],
    "body",
    [
        helper.make_tensor_value_info(*each)
        for each in (("i", INT64, []), ("go", TensorProto.BOOL, []), ("s", FLOAT, None))
    ],
    [helper.make_tensor_value_info(*each) for each in (("on", TensorProto.BOOL, []), ("t", FLOAT, None))],
)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "external data": (elsewhere, r"the numbers of 'w' are in another file; legal is one file"),
    "external data, deep inside": (lambda: inside("external"), r"the numbers of 'w' are in another file"),
    "a domain": (
        lambda: model([helper.make_node("Gelu", ["map"], ["y"], domain="com.microsoft", name="g")], outputs=("y",)),
        r"Gelu \(node 'g'\) is an operator of 'com\.microsoft'; legal are ONNX's own",
    ),
    "a domain, deep inside": (lambda: inside("domain"), r"Evil \(node 'deep'\) is an operator of 'com\.evil'"),
    "a branch": (lambda: inside("plain"), r"If \(node '\w+'\) runs other steps for other images"),
    "a loop": (
        lambda: model([helper.make_node("Loop", ["", "yes", "map"], ["y"], body=LOOP)], {"yes": True}, outputs=("y",)),
        r"Loop \(node 'y'\) runs other steps for other images, perhaps without end",
    ),
    "a function": (function, r"it holds functions \(mine\.F\), and operators alone are legal"),
    "no operator": (
        lambda: model([node("Convolute", "map", "y")], outputs=("y",)),
        r"Convolute \(node 'y'\) is no oper",
    ),
    "random numbers": (lambda: model([node("RandomNormalLike", "map", "y")], outputs=("y",)), r"draws random numbers"),
    "weights that are not there": (announced, r"'w' announces the shape \[1048576, 1048576, 3, 3\], and the file does"),
    "zeros": (
        lambda: blown(node("ConstantOfShape", "s", "z"), s=[1 << 20, 1 << 16]),
        r"ConstantOfShape .*fills the mem",
    ),
    "zeros of a shape worked out": (
        lambda: blown(node("Mul", "s s", "t"), node("ConstantOfShape", "t", "z"), s=[1 << 10, 1 << 8]),
        r"ConstantOfShape \(node 'z'\) makes \[1048576, 65536\] numbers",
    ),
    "zeros of a shape worked out by choice": (
        lambda: blown(
            node("Equal", "s s", "e"),
            node("Where", "e s s", "t"),
            node("ConstantOfShape", "t", "z"),
            s=[1 << 20, 1 << 16],
        ),
        r"ConstantOfShape \(node 'z'\) makes",
    ),
    "zeros of a shape that wraps around": (
        lambda: blown(node("ConstantOfShape", "s", "z"), s=[1 << 32, 1 << 32]),
        r"(ConstantOfShape|its shapes)",
    ),
    "many zeros": (
        lambda: blown(
            *(node("ConstantOfShape", "s", f"z{at}") for at in range(20)),
            helper.make_node("Sum", [f"z{at}" for at in range(20)], ["z"]),
            s=[1 << 10, 1 << 16],
        ),
        r"ConstantOfShape \(node 'z\d+'\) makes \[1024, 65536\] numbers of one image; that fills the memory",
    ),
    "expanded": (lambda: blown(node("Expand", "one s", "z"), one=np.float32([1]), s=[1 << 40]), r"Expand .*fills"),
    "tiled": (lambda: blown(node("Tile", "one s", "z"), one=np.float32([1]), s=[1 << 40]), r"Tile .*fills the memory"),
    "a range": (
        lambda: blown(node("Range", "a b c", "r"), node("Cast", "r", "z", to=FLOAT), a=0, b=1 << 40, c=1),
        r"Range \(node 'r'\).*(fills the memory|cannot be known)",
    ),
    "maps": (
        lambda: model(
            [helper.make_node("Resize", ["map", "", "s"], ["y"])], {"s": np.float32([1, 1, 5e3, 5e3])}, outputs=("y",)
        ),
        r"Resize \(node 'y'\) makes \[1, 8, 45000, 45000\] numbers of one image",
    ),
    "sizes that the image says": (
        lambda: model(
            [
                node("ReduceMax", "map", "m", keepdims=0),
                node("Cast", "m", "k", to=INT64),
                node("Reshape", "k one", "s"),
                node("ConstantOfShape", "s", "z"),
                node("ReduceMax", "z", "q", keepdims=0),
                node("Add", "map q", "y"),
            ],
            {"one": np.array([1])},
            outputs=("y",),
        ),
        r"how large the output of ConstantOfShape \(node 'z'\) becomes cannot be known before it runs",
    ),
    "channels last": (
        lambda: model(shape=("n", 16, 16, 3)),
        r"x is float \[n, 16, 16, 3\], with the channels last; legal",
    ),
    "a fixed batch": (lambda: model(shape=(1, 3, 16, 16)), r"for 1 images at a time; .* export it with a free batch"),
    "a free size": (lambda: model(shape=("n", 3, "h", "w")), r"x is float \[n, 3, h, w\]; legal is one input"),
    "no square": (lambda: model(shape=("n", 3, 16, 20)), r"x is float \[n, 3, 16, 20\]; legal is one input"),
    "whole numbers": (lambda: model(kind=INT64), r"x is int64 \[n, 3, 16, 16\]; legal is one input, float32 or uint8"),
    "a row for both": (
        lambda: model([node("Flatten", "map", "y", axis=0)], outputs=("y",)),
        r"float32 \[1, 1296\] for two",
    ),
    "not a number": (lambda: model([node("Log", "map", "y")], outputs=("y",)), r"'y' is not a number for some images"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=rf"net\.onnx cannot be used as a network: .*{message}"):
            load_onnx(save(make(), tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_two_inputs(tmp_path: Path) -> None:
    made = model()
    made.graph.input.append(helper.make_tensor_value_info("z", FLOAT, ["n"]))
    with pytest.raises(WeightsError, match=r"it has 2 inputs; legal is one input"):
        load_onnx(save(made, tmp_path))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02", model().SerializeToString()[:-50]])
def test_no_onnx(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    empty = r"cannot be used as a network: it holds no graph\.$"
    with pytest.raises(WeightsError, match=rf"net\.onnx (is no ONNX file, or not all of it is there\.$|{empty})"):
        load_onnx(tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match=r"Cannot read .*none\.onnx: No such file"):
        load_onnx(tmp_path / "none.onnx")


def test_nothing_runs_before_it_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "_run_model", lambda *_: pytest.fail("it was run"))
    for make, _ in list(REFUSED.values())[:-2]:
        with pytest.raises(WeightsError):
            load_onnx(save(make(), tmp_path))


def test_the_limits_are_those_of_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_VALUE_BYTES", 3 * 16 * 16 * 4)
    load_onnx(save(model(), tmp_path))
    monkeypatch.setattr(inspection, "MAX_VALUE_BYTES", 3 * 16 * 16 * 4 - 1)
    with pytest.raises(WeightsError, match=r"Cast \(node 'float'\) makes \[1, 3, 16, 16\] numbers"):
        load_onnx(save(model(), tmp_path))
