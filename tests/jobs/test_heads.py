"""Forests and principal components all the way: saved, loaded, updated and exported they answer the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft_runtime
from graft.backbones.backbone import load_backbone
from graft.backbones.features import build_probe_features
from graft.data.readers.folder import read_folder
from graft.errors import DataError, UsageError
from graft.heads import classical
from graft.jobs import fit as job
from graft.jobs.explain import explain
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.jobs.update.update import update
from graft.model.classifier import Classifier, load
from graft.training import probe
from graft.training.plan import Plan

STRATEGIES = [
    "probe:head=forest,layers=last,views=2",
    "probe:head=knn,layers=last,pca=6",
    "probe:head=svm,layers=all,views=2,pca=6",
    "early-features:at=layer2,solver=forest,pca=6",
]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "TREES", 20)


def fitted(photos: Any, weights: Path, strategy: str, folder: Path | None = None) -> Classifier:
    return fit(photos, folder, backbone="test_resnet", weights=weights, strategy=strategy, report=False)


def logits(classifier: Classifier, photos: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    found = classifier.run_forward(read_folder(photos)).logits
    return found[:, np.argsort(classifier.classes)], tuple(sorted(classifier.classes))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_saved_loaded_and_exported_it_answers_the_same(
    strategy: str, photos: Path, weights: Path, tmp_path: Path
) -> None:
    classifier = fitted(photos, weights, strategy, tmp_path / "model")
    files = sorted(photos.glob("*/*"))
    loaded = load(tmp_path / "model")
    want = [each.probabilities for each in classifier.predict(files)]
    assert len({tuple(each.values()) for each in want}) >= 3
    assert [each.probabilities for each in loaded.predict(files)] == want
    assert loaded.evaluate(photos).as_dict() == classifier.evaluate(photos).as_dict()
    found = export(loaded, tmp_path / "heads.onnx", check=photos)["parity"]
    assert (found["changed"], found["loss"]) == (0, 0)
    got = graft_runtime.load(tmp_path / "heads.onnx").predict(files)
    for one, other in zip(got, want, strict=True):
        assert one.probabilities == pytest.approx(other, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"to": "torch"}, {"to": "openvino"}, {"int8": True}], ids=str)
def test_a_forest_on_components_answers_the_same_in_every_format(
    options: dict[str, Any], photos: Path, weights: Path, tmp_path: Path
) -> None:
    classifier = fitted(photos, weights, "probe:head=forest,layers=last,pca=6")
    path = tmp_path / ("heads.pt2" if options.get("to") == "torch" else "heads.onnx")
    found = export(classifier, path, check=photos, allow_loss=0.3, **options)["parity"]
    if "int8" not in options:
        assert (found["changed"], found["loss"]) == (0, 0)
    assert path.exists()


@pytest.mark.slow
def test_several_labels(photos: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    files = sorted((tmp_path / "photos").glob("*/*"))
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name}|{'odd' if at % 2 else ''}" for at, path in enumerate(files)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels", *rows]), encoding="utf-8")
    trained = fitted(tmp_path, weights, "probe:head=forest,layers=last,pca=6", tmp_path / "model")
    assert trained.card.head["several"] is True
    assert export(trained, tmp_path / "several.onnx", check=tmp_path)["parity"]["loss"] == 0
    got = graft_runtime.load(tmp_path / "several.onnx").predict(files)
    want = load(tmp_path / "model").predict(files)
    assert len({each.labels for each in want}) > 2
    for one, other in zip(got, want, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [pytest.param("probe:head=forest,layers=last", marks=pytest.mark.slow), STRATEGIES[1], STRATEGIES[3]],
)
def test_an_update_keeps_the_components_and_is_a_fit_from_scratch(
    strategy: str, photos: Path, weights: Path, tmp_path: Path
) -> None:
    for at, path in enumerate(sorted(photos.glob("*/*"))):
        for root in ("all", "frame" if path.parent.name == "frame" else "two"):
            target = tmp_path / root / ("test" if at % 4 == 0 else "train") / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    fitted(tmp_path / "two", weights, strategy, tmp_path / "model")
    new = update(tmp_path / "model", add=tmp_path / "frame", allow_worse=True)
    scratch = fitted(tmp_path / "all", weights, strategy)
    one, two = logits(new, photos), logits(scratch, photos)
    assert one[1] == two[1]
    np.testing.assert_allclose(one[0], two[0], rtol=0, atol=1e-4)
    assert new.card.head.get("pca") == scratch.card.head.get("pca") == (6 if "pca" in strategy else None)
    assert new.report["head"]["pca"] == (6 if "pca" in strategy else 0)


@pytest.mark.slow
def test_a_forest_is_explained_without_a_gradient(photos: Path, weights: Path, tmp_path: Path) -> None:
    classifier = fitted(photos, weights, "probe:head=forest,layers=last")
    (made,) = explain(classifier, [photos / "disc/00.png"], tmp_path / "why")
    assert Path(made["drawing"]).exists()


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ("probe:pca=36", "pca=36 needs more than 36 training images. There are 36 in all"),
        ("early-features:at=layer1,pca=33", "at most 32, as many features as these layers together give"),
    ],
)
def test_more_components_than_there_can_be_are_refused_before_an_image_is_embedded(
    strategy: str, says: str, photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "embed", lambda *_, **__: pytest.fail("images were embedded"))
    with pytest.raises(UsageError, match=says):
        fitted(photos, weights, strategy)


@pytest.mark.parametrize("read", ["last", "all", "auto"])
def test_more_components_than_a_probe_has_features_are_refused(read: str, weights: Path) -> None:
    backbone = load_backbone("test_resnet", weights)
    widths = build_probe_features(backbone).widths
    most, which = (sum(widths), "these layers together give") if read == "all" else (widths[-1], "the last layer gives")
    probe.check_probe(Plan(f"probe:layers={read},pca={most}"), backbone)
    with pytest.raises(UsageError, match=f"'pca' must be at most {most}, as many features as {which}. Got {most + 1}"):
        probe.check_probe(Plan(f"probe:layers={read},pca={most + 1}"), backbone)


def test_more_components_than_training_images_are_refused(photos: Path, weights: Path) -> None:
    with pytest.raises(DataError, match=r"pca=35 asks for more axes than these training images differ along"):
        fitted(photos, weights, "probe:pca=35,layers=last")
