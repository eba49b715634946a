"""An exported file answers as the classifier that was trained, or is not written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sabotage
from odd import odd_files
from typer.testing import CliRunner, Result

import graft_runtime
from graft.backbones import preprocess
from graft.backbones.graph import Graph
from graft.cli import app
from graft.cli.export import ALLOWED_LOSS
from graft.errors import DataError, ExportError, OutputError, UsageError
from graft.jobs.export import export as job
from graft.jobs.export import parity
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.model import network
from graft.model.classifier import Classifier, load
from graft_runtime import contract


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load(model)


@pytest.fixture(scope="module")
def small(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier by a small network, where it is not the answers that matter."""
    folder = tmp_path_factory.mktemp("small") / "model"
    fit(photos, folder, strategy="probe:head=ridge,layers=last", backbone="test_resnet", weights=weights, offline=True)
    return folder


@pytest.fixture(scope="module")
def exported(classifier: Classifier, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "shapes.onnx"
    export(classifier, path, check=photos)
    return path


# --- exported = trained -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault(19)
def test_the_runtime_answers_as_the_classifier_from_the_bytes_of_odd_files(
    exported: Path, classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    files = [*odd_files(tmp_path), *sorted(photos.glob("*/*"))]
    want, got = classifier.predict(files, coverage=0.9), graft_runtime.load(exported).predict(files, coverage=0.9)
    assert [each.fault for each in got] == [each.fault for each in want]
    assert sum(bool(each.fault) for each in got) == 2
    for one, other in zip(got, want, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert (one.label, one.labels, one.prediction_set, one.unknown) == (
            other.label,
            other.labels,
            other.prediction_set,
            other.unknown,
        )


@pytest.mark.slow
def test_several_labels_with_their_thresholds(photos: Path, weights: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}|any" for path in _copied(photos, tmp_path)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels", *rows]), encoding="utf-8")
    trained = fit(
        tmp_path,
        tmp_path / "model",
        strategy="probe:head=logistic,layers=last",
        backbone="test_resnet",
        weights=weights,
        offline=True,
    )
    report = export(trained, tmp_path / "several.onnx", check=tmp_path)
    assert report["parity"]["loss"] == 0
    files = sorted((tmp_path / "photos").glob("*/*"))
    got = graft_runtime.load(tmp_path / "several.onnx").predict(files)
    assert [each.labels for each in got] == [each.labels for each in trained.predict(files)]


def _copied(photos: Path, folder: Path) -> list[Path]:
    shutil.copytree(photos, folder / "photos")
    return sorted((folder / "photos").glob("*/*"))


@pytest.mark.slow
def test_a_pretrained_network_with_its_own_classes(tmp_path: Path) -> None:
    report = export("tf_efficientnet_lite0", tmp_path / "direct.onnx")
    assert (report["classes"], report["parity"]["changed"]) == (1000, 0)
    assert len(graft_runtime.load(tmp_path / "direct.onnx").classes) == 1000


# --- the file ---------------------------------------------------------------------------------------------------------


def test_one_file_says_all_of_itself(exported: Path, classifier: Classifier) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["shapes.onnx"]
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == preprocess.OPSET
    assert {node.domain for node in model.graph.node} == {""}, "only operators of ONNX itself"
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in shape] == ["n", "height", "width", 3]
    assert [each.name for each in model.graph.output] == list(contract.OUTPUTS)
    card, about = contract.read_description(exported.read_bytes())
    assert card == classifier.card
    assert about.precision == "float32"
    assert classifier.memory
    assert classifier.memory.known
    assert about.strays == tuple(classifier.memory.known.strays.tolist())


def test_the_check_is_on_held_out_images_and_kept_in_the_file(
    exported: Path, classifier: Classifier, photos: Path
) -> None:
    found = graft_runtime.load(exported).export.parity
    assert classifier.memory
    assert classifier.memory.tested
    assert (found["origin"], found["images"]) == ("held out", len(classifier.memory.tested))
    assert found["worst"] < 1e-4
    assert (found["changed"], found["loss"]) == (0, 0.0)
    assert found["size"] <= exported.stat().st_size < found["size"] + 2000


@pytest.mark.slow
def test_without_images_made_ones_are_used_and_the_answer_says_so(small: Path, tmp_path: Path) -> None:
    done = graft("export", small, "-o", tmp_path / "a.onnx", "-q")
    assert done.exit_code == 0
    assert "your own were not" in done.stdout
    assert graft_runtime.load(tmp_path / "a.onnx").export.parity["origin"] == "made"


def test_a_folder_of_loose_images_has_no_labels(small: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "disc", tmp_path / "loose")
    done = graft("export", small, "-o", tmp_path / "a.onnx", "--check", tmp_path / "loose", "--json", "-q")
    found = json.loads(done.stdout)["parity"]
    assert found["loss"] is None
    assert 0 < found["images"] < 12


# --- the gate ---------------------------------------------------------------------------------------------------------


SLOW = pytest.mark.slow
FORMATS = [
    ("onnx", "bad.onnx"),
    pytest.param("web", "bad", marks=SLOW),
    pytest.param("openvino", "bad.onnx", marks=SLOW),
]


@pytest.mark.slow
@pytest.mark.parametrize(("to", "name"), FORMATS)
@pytest.mark.parametrize(
    "bent",
    [
        sabotage.swapped,
        sabotage.wrong_mean,
        pytest.param(sabotage.squashed, marks=SLOW),
        pytest.param(sabotage.other_kernel, marks=SLOW),
    ],
)
def test_broken_preprocessing_is_refused_and_leaves_nothing_behind(
    bent: Callable[..., onnx.ModelProto],
    to: str,
    name: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocess, "prepend_preprocess", bent)
    monkeypatch.setattr(job.web, "fetch_runtime", lambda _: tmp_path / "not reached")
    done = graft("export", small, "-o", tmp_path / name, "--to", to, "-q")
    assert done.exit_code == 8, done.stderr
    assert "does not answer as the classifier does" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(24)
@pytest.mark.parametrize(("to", "name"), FORMATS)
def test_permuted_classes_are_refused(
    to: str, name: str, small: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.web, "fetch_runtime", lambda _: tmp_path / "not reached")

    honest = network.build_classifier_graph

    def permuted(*given: Any) -> Graph:
        whole = honest(*given)
        model = onnx.ModelProto.FromString(whole.structure)
        for node in model.graph.node:
            node.output[:] = ["straight" if name == contract.PROBABILITIES else name for name in node.output]
        order = onnx.numpy_helper.from_array(np.array([2, 0, 1]), "order")
        model.graph.initializer.append(order)
        taken = onnx.helper.make_node("Gather", ["straight", "order"], [contract.PROBABILITIES], axis=1)
        model.graph.node.append(taken)
        return replace(whole, structure=model.SerializeToString())

    monkeypatch.setattr(job, "build_classifier_graph", permuted)
    with pytest.raises(ExportError, match="a probability is off by"):
        export(small, tmp_path / name, to=to, check=photos)
    assert not list(tmp_path.iterdir())


def test_an_export_is_checked_on_some_image(small: Path, photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    for name in ("disc", "frame"):
        (broken / name).mkdir(parents=True)
        (broken / name / "0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="Not one of the 2 images to check the export on can be read"):
        export(small, tmp_path / "bad.onnx", check=broken)
    with pytest.raises(DataError, match="Not one of the 2 images to find the ranges of int8 on can be read"):
        export(small, tmp_path / "bad.onnx", int8=True, check=photos, calibrate=broken)
    assert list(tmp_path.iterdir()) == [broken]


def test_a_changed_answer_on_the_border_is_a_tie_and_any_other_is_not() -> None:
    whole = parity.Parity("made", 10, 5e-4, 0, 3, None, None, None, None, (2.0, 1.0), 1)
    assert (whole.find_mismatch(), whole.speed) == ("", 2.0)
    assert replace(whole, changed=1).find_mismatch() == "1 of 10 answers changed"
    assert "off by" in replace(whole, worst=2e-3).find_mismatch()
    assert "off by" in replace(whole, worst=float("nan")).find_mismatch()
    assert replace(whole, changed=1).find_excess_loss(0.1) == ""
    assert replace(whole, changed=2).find_excess_loss(0.1) == "20.0% of the answers changed, and 10.0% is allowed"
    assert replace(whole, changed=5, loss=0.005).find_excess_loss(0.01) == ""
    assert "it loses 2.0% of right answers" in replace(whole, loss=0.02).find_excess_loss(0.01)


# --- int8 -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_int8_is_smaller_and_loses_no_more_than_is_allowed(
    classifier: Classifier, exported: Path, photos: Path, tmp_path: Path
) -> None:
    report = export(classifier, tmp_path / "small.onnx", int8=True, check=photos, allow_loss=0.2)
    assert report["precision"] == graft_runtime.load(tmp_path / "small.onnx").export.precision == "int8"
    assert report["parity"]["size"] < 0.6 * exported.stat().st_size
    assert 1e-4 < report["parity"]["worst"] < 1
    layers = [node for node in heavy(exported) if node.name.startswith("features.backbone.")]
    depthwise = {node.name for node in layers if any(each.name == "group" and each.i > 1 for each in node.attribute)}
    late = {node.name for node in layers[16:]} - depthwise
    assert (len(layers), len(depthwise), len(late)) == (49, 16, 22)
    assert {node.name for node in heavy(tmp_path / "small.onnx") if "DequantizeLinear" in node.input[1]} == late
    with pytest.raises(ExportError, match="--allow-loss"):
        export(classifier, tmp_path / "other.onnx", int8=True, check=photos, allow_loss=-1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def heavy(path: Path) -> list[onnx.NodeProto]:
    """The products with weights, in order."""
    return [node for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]


def test_int8_needs_images(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--check photos/"):
        export(small, tmp_path / "a.onnx", int8=True)


def test_one_image_is_enough_for_int8(small: Path, photos: Path, tmp_path: Path) -> None:
    one = photos / "disc" / "00.png"
    report = export(small, tmp_path / "a.onnx", int8=True, check=one, calibrate=one, allow_loss=1.0)
    assert (report["precision"], report["parity"]["images"]) == ("int8", 1)


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_file_of_the_users_is_replaced(small: Path, exported: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine.onnx"
    place.write_bytes(b"mine")
    with pytest.raises(OutputError, match="there already"):
        export(small, place)
    with pytest.raises(OutputError, match="not even --force"):
        export(small, place, force=True)
    assert place.read_bytes() == b"mine"
    with pytest.raises(OutputError, match="There is no folder"):
        export(small, tmp_path / "nowhere" / "a.onnx")
    shutil.copy(exported, tmp_path / "old.onnx")
    assert export(small, tmp_path / "old.onnx", force=True)["precision"] == "float32"


@pytest.mark.parametrize(
    ("name", "to", "says"),
    [
        ("a.tflite", None, r"A file for onnx ends in \.onnx\. Got a\.tflite"),
        ("a.xml", "openvino", r"A file for openvino ends in \.onnx\. Got a\.xml"),
        ("a.pt", None, r"A file for onnx ends in \.onnx\. Got a\.pt"),
        ("a", None, r"A file for onnx ends in \.onnx\. Got a\."),
        ("a.onnx", "web", r"is a folder\. Got a\.onnx, which is the name of a file"),
    ],
)
def test_no_file_has_the_ending_of_another_kind(
    name: str, to: str | None, says: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        export(model, tmp_path / name, to=to)


@pytest.mark.slow
def test_what_cannot_be_exported_is_told(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        job, "build_classifier_graph", lambda *_: (_ for _ in ()).throw(RuntimeError("no such operator: aten::x"))
    )
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: no such operator: aten::x.*--backbone"):
        export(small, tmp_path / "a.onnx")


def test_the_defaults_of_the_program_are_those_of_python() -> None:
    assert ALLOWED_LOSS == job.DEFAULT_ALLOWED_LOSS


@pytest.mark.slow
def test_made_images_are_always_the_same() -> None:
    one, other = parity.generate_images(), parity.generate_images()
    assert [one.read(row) for row in range(len(one))] == [other.read(row) for row in range(len(other))]
