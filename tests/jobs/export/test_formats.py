"""What runs a file of each format answers as the classifier that was trained, or there is no file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray
from odd import odd_files
from torch import Tensor, nn
from torch.export import Dim
from typer.testing import CliRunner, Result

import graft_runtime
from graft.backbones.preprocess import Preprocess
from graft.cli import app
from graft.errors import ExportError, OutputError
from graft.jobs.export import export as job
from graft.jobs.export import parity
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load
from graft.torch import program
from graft.torch.network import prepare_batch
from graft_runtime import contract
from graft_runtime.image import decode

pytestmark = pytest.mark.slow  # PyTorch writes a program anew for each: three minutes

Run = Callable[[NDArray[np.uint8]], Any]


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network, so that torch.export is quick."""
    folder = tmp_path_factory.mktemp("small") / "model"
    fit(photos, folder, backbone="test_resnet", weights=weights, strategy="probe:head=ridge,layers=last")
    return folder


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load(model)


@pytest.fixture(scope="module")
def exported(classifier: Classifier, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each format."""
    folder = tmp_path_factory.mktemp("export")
    files = {"torch": folder / "shapes.pt2", "openvino": folder / "shapes.onnx"}
    for format, path in files.items():
        assert export(classifier, path, to=format, check=photos)["format"] == format
    return files


@pytest.fixture(scope="module", params=["torch", "openvino"])
def run(request: pytest.FixtureRequest, exported: dict[str, Path]) -> Run:
    """A file at work as docs/client.md shows it."""
    path = exported[request.param]
    if request.param == "openvino":
        return openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answering = torch.export.load(path).module()
    return lambda image: {name: tensor.detach().numpy() for name, tensor in answering(torch.tensor(image)).items()}


# --- exported = trained -----------------------------------------------------------------------------------------------


def test_the_file_answers_as_the_classifier_from_the_bytes_of_odd_files(
    run: Run, classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    files = [*odd_files(tmp_path), *sorted(photos.glob("*/*.jpg"))]
    want = [(path, each) for path, each in zip(files, classifier.predict(files), strict=True) if not each.fault]
    assert len(want) == len(files) - 2
    limit = classifier.memory.known.unknown_threshold(0.05) if classifier.memory and classifier.memory.known else np.inf
    for path, each in want:
        found = run(decode(path.read_bytes(), enough=2 * classifier.network.preprocess.resize)[None])
        assert found["probabilities"][0] == pytest.approx(list(each.probabilities.values()), abs=1e-3), path.name
        assert bool(found["unknown"][0] > limit) == each.unknown


def test_several_images_at_once_are_those_one_by_one(run: Run) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 60, 500, 3), dtype=np.uint8)
    together = {name: np.array(run(images)[name]) for name in ("probabilities", "heat", "nearest")}
    for row, image in enumerate(images):
        alone = run(image[None])
        assert together["probabilities"][row] == pytest.approx(alone["probabilities"][0], abs=1e-6)
        assert together["heat"][row] == pytest.approx(alone["heat"][0], abs=1e-3)
        assert together["nearest"][row].tolist() == alone["nearest"][0].tolist()


class Prepared(nn.Module):
    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess

    def forward(self, image: Tensor) -> Tensor:
        return prepare_batch(self.preprocess, image)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(30, 33, "bilinear"),  # a margin of one and a half
        Preprocess(31, 36),  # of two and a half
        Preprocess(32, 32, crop="squash"),
    ],
)
def test_a_program_prepares_the_very_same_pixels_at_every_size(preprocess: Preprocess) -> None:
    example = torch.zeros(program.EXAMPLE_SHAPE, dtype=torch.uint8)
    made = torch.export.export(
        Prepared(preprocess), (example,), dynamic_shapes=(dict.fromkeys(range(3), Dim.DYNAMIC),), strict=False
    )
    file = io.BytesIO()
    torch.export.save(made, file)
    prepare = torch.export.load(io.BytesIO(file.getvalue())).module()
    rng = np.random.default_rng(0)
    for height, width in [*parity.SIZES, (33, 100), (34, 100), (100, 1700), (1700, 101)]:
        images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        want = torch.from_numpy(np.stack([preprocess.prepare(image) for image in images]))
        assert torch.equal(prepare(torch.from_numpy(images)), want), (height, width)
        assert torch.equal(prepare(torch.from_numpy(images[:1])), want[:1]), (height, width)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_program_says_all_of_itself(exported: dict[str, Path], classifier: Classifier) -> None:
    texts: dict[str, Any] = {contract.CARD: "", contract.EXPORT: ""}
    made = torch.export.load(exported["torch"], extra_files=texts)
    card, about = contract.parse_properties(texts)
    assert card == classifier.card
    assert classifier.memory
    assert classifier.memory.known
    assert classifier.memory.tested
    assert about.strays == tuple(classifier.memory.known.strays.tolist())
    assert (about.parity["origin"], about.parity["images"]) == ("held out", len(classifier.memory.tested))
    assert (about.parity["changed"], about.parity["runtime"]) == (0, f"torch {torch.__version__}")
    assert about.parity["worst"] < 1e-5
    assert [node.name for node in made.graph.nodes if node.op == "placeholder" and node.name == "image"] == ["image"]
    said = made.module()(torch.zeros(1, 8, 9, 3, dtype=torch.uint8))
    assert list(said) == list(contract.OUTPUTS)


def test_a_program_names_no_file_of_the_machine_that_made_it(exported: dict[str, Path]) -> None:
    with ZipFile(exported["torch"]) as file:
        (name,) = [name for name in file.namelist() if name.endswith("models/model.json")]
        graph = file.read(name).decode()
    assert json.loads(graph)["graph_module"]
    assert ".py" not in graph


def test_openvino_is_given_the_file_that_graft_runtime_reads(
    exported: dict[str, Path], classifier: Classifier, tmp_path: Path
) -> None:
    export(classifier, tmp_path / "plain.onnx")
    one, other = (graft_runtime.load(path) for path in (exported["openvino"], tmp_path / "plain.onnx"))
    assert contract.hash_graph(exported["openvino"].read_bytes()) == contract.hash_graph(
        (tmp_path / "plain.onnx").read_bytes()
    )
    assert one.export.parity["runtime"].startswith("openvino 20")
    assert other.export.parity["runtime"].startswith("onnxruntime ")


def test_training_images_are_in_a_program_only_where_asked_for(model: Path, photos: Path, tmp_path: Path) -> None:
    done = export(model, tmp_path / "shown.pt2", evidence=photos)
    assert done["evidence"]["bytes"] > 500 * done["evidence"]["thumbnails"] > 0
    texts: dict[str, Any] = {contract.EXPORT: "", contract.EVIDENCE: ""}
    torch.export.load(tmp_path / "shown.pt2", extra_files=texts)
    assert len(json.loads(texts[contract.EVIDENCE])["images"]) == done["evidence"]["images"]


# --- the gate ---------------------------------------------------------------------------------------------------------


class Swapped(program.Program):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return super().forward(image.flip(3))


class Permuted(program.Program):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        said = super().forward(image)
        return said | {"probabilities": said["probabilities"].roll(1, dims=1)}


class WrongMean(program.Program):
    def __init__(self, classifier: Classifier) -> None:
        features = classifier.network.features
        features = replace(features, preprocess=replace(features.preprocess, mean=(0.4, 0.4, 0.4)))
        super().__init__(replace(classifier, network=replace(classifier.network, features=features)))


class Squashed(program.Program):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        self.preprocess = replace(self.preprocess, crop="squash", resize=self.preprocess.size)


@pytest.mark.parametrize("sabotage", [Swapped, Permuted, WrongMean, Squashed])
def test_a_broken_program_is_refused_and_leaves_nothing_behind(
    sabotage: type[nn.Module], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "Program", sabotage)
    done = graft("export", model, "-o", tmp_path / "bad.pt2", "-q")
    assert done.exit_code == 8, done.stderr
    assert "does not answer as the classifier does" in done.stderr
    assert f"graft or of torch {torch.__version__}" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_program_that_changes_answers_of_unknown_is_refused(
    classifier: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange(program.Program):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            said = super().forward(image)
            return said | {"unknown": said["unknown"] + 10}

    monkeypatch.setattr(program, "Program", Strange)
    with pytest.raises(ExportError, match=r"\d+ of \d+ answers changed"):
        export(classifier, tmp_path / "bad.pt2", check=photos)


def test_what_openvino_answers_is_what_counts(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_model = openvino.Core.compile_model

    def wrong(core: openvino.Core, *given: Any) -> Callable[[NDArray[np.uint8]], Any]:
        model = compile_model(core, *given)
        return lambda image: model(np.ascontiguousarray(image[..., ::-1]))

    monkeypatch.setattr(openvino.Core, "compile_model", wrong)
    with pytest.raises(ExportError, match=r"does not answer as the classifier does.*graft or of openvino 20"):
        export(classifier, tmp_path / "bad.onnx", to="openvino")
    export(classifier, tmp_path / "good.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]


def test_a_file_that_openvino_cannot_run_is_told(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        job.preprocess, "prepend_preprocess", lambda _, network: network
    )  # takes prepared images, not an image
    with pytest.raises(ExportError, match=r"The file that was made does not run"):
        export(classifier, tmp_path / "bad.onnx", to="openvino")


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_the_format_follows_from_the_name_of_the_file(classifier: Classifier, tmp_path: Path) -> None:
    assert export(classifier, tmp_path / "a.pt2")["format"] == "torch"
    assert export(classifier, tmp_path / "a.onnx")["format"] == "onnx"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.onnx", "--to", "tflite"], "An export is to onnx, openvino, torch, web. Got 'tflite'"),
        (["a.onnx", "--to", "torch"], "A file for torch ends in .pt2. Got a.onnx"),
        (["a.pt2", "--to", "openvino"], "A file for openvino ends in .onnx. Got a.pt2"),
        (["a.pt2", "--int8"], "Leave --int8 out, or write a file .onnx"),
        (["a.onnx", "--int8", "--to", "openvino"], "int8 is for onnx. Got openvino"),
    ],
)
def test_what_cannot_be_is_told(words: list[str], told: str, model: Path, tmp_path: Path) -> None:
    done = graft("export", model, "-o", tmp_path / words[0], *words[1:], "-q")
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_without_openvino_the_message_says_how_to_get_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = graft("export", model, "-o", tmp_path / "a.onnx", "--to", "openvino", "-q")
    assert done.exit_code == 2
    assert "pip install 'graft-vision[openvino]'" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_only_a_program_of_ours_is_replaced(exported: dict[str, Path], model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt2"
    torch.save({"graft.card": torch.zeros(1)}, mine)
    content = mine.read_bytes()
    with pytest.raises(OutputError, match="not even --force"):
        export(model, mine, force=True)
    assert mine.read_bytes() == content
    old = tmp_path / "old.pt2"
    old.write_bytes(exported["torch"].read_bytes())
    assert export(model, old, force=True)["precision"] == "float32"


def test_a_network_that_torch_cannot_follow_is_told(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(program.Program):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return super().forward(image if image.sum() > 0 else image + 1)

    monkeypatch.setattr(program, "Program", Asking)
    with pytest.raises(ExportError, match=r"cannot be written as a program of torch.export: .*--backbone"):
        export(classifier, tmp_path / "a.pt2")
