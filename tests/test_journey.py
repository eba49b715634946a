"""All the way, in a row: fit, save, load, predict, evaluate, explain, update, export, a client's runtime, HTTP.

The same answers at every stop, for every strategy x head x task x kind of network x format. Quick: each of
these once. With the slow ones each pair of them meets at least once; slow are the networks of the texts too.
"""

from __future__ import annotations

import csv
import gc
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from journey import OWN, Cell, cells, covering, reason, spread
from safetensors.numpy import load_file
from safetensors.torch import save_file
from serving import running
from shaken import shaken, slim_networks

import graft_runtime
from graft.backbones import catalog
from graft.errors import GraftError
from graft.jobs.evaluate import evaluate
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.jobs.outputs import INT8, ONNX, OPENVINO, TORCH, WEB
from graft.jobs.update.update import update
from graft.model.classifier import Classifier, load
from graft.model.explain import Explanation, explain
from graft.torch import build
from graft.torch.build import SMALL
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.prediction import Prediction

CLOSE = 1e-3  # of a probability: what an export may differ by
ENDING = {ONNX: ".onnx", OPENVINO: ".onnx", INT8: ".onnx", TORCH: ".pt2", WEB: ""}
PUBLISHED = ("n03944341", "picket fence", "Daisy")  # three classes of ImageNet, by its names in three spellings
MISSION = ("alexnet", "vgg16", "googlenet", "inception_v3", "resnet18", "densenet121", "mobilenet_v2")

POSSIBLE = [cell for cell in cells() if not reason(cell)]
# The smallest network and the format that needs nothing else: other networks are converted, web needs npm.
QUICK = spread(
    cell
    for cell in POSSIBLE
    if cell.format == ONNX and cell.network == ("test_resnet" if cell.strategy == "direct" else "cnn")
)
WHOLE = covering(POSSIBLE, done=QUICK)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for weights of networks: random, and such that answers differ from image to image."""
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="session")
def sources(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images as class folders, as a table of several labels, and in folders named like published classes."""
    root = tmp_path_factory.mktemp("sources")
    few = root / "few"
    # nine of each class: with six a forest on random features answers the same for every image
    shutil.copytree(photos, few, ignore=shutil.ignore_patterns("09.*", "1*"))
    for folder, name in zip(sorted(few.iterdir()), PUBLISHED, strict=True):
        shutil.copytree(folder, root / "published" / name)
    (root / "table").mkdir()
    with (root / "table/labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "labels", "split"])
        for number, image in enumerate(sorted(few.rglob("*.*"))):
            name = f"{number:02d}{image.suffix}"
            shutil.copy(image, root / "table" / name)
            labels = [image.parent.name] + ["odd"] * (number % 2)
            rows.writerow([name, "|".join(labels), "test" if number % 4 == 0 else "train"])
    return {"multiclass": few, "multilabel": root / "table/labels.csv", "direct": root / "published"}


def source_of(cell: Cell, sources: dict[str, Path]) -> Path:
    return sources["direct" if cell.strategy == "direct" and cell.task != MULTILABEL else cell.task]


def weights_of(network: str, folder: Path) -> Path | str | None:
    """A file of weights, made at first use; the small networks have none and start from random ones."""
    if network in SMALL:
        return "random"
    path = folder / f"{network}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(shaken(build.build_network(catalog.find_entry(network))).state_dict(), path)
    return path


def fitted(cell: Cell, sources: dict[str, Path], pretrained: Path, output: Path | None = None) -> Classifier:
    weights = None if cell.strategy == "scratch" else weights_of(cell.network, pretrained)
    return fit(source_of(cell, sources), output, weights=weights, offline=True, report=False, **cell.options)


@pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.name) for cell in QUICK])
def test_the_same_answers_all_the_way(cell: Cell, sources: dict[str, Path], pretrained: Path, tmp_path: Path) -> None:
    walk(cell, sources, pretrained, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.name) for cell in WHOLE])
def test_the_same_answers_all_the_way_in_the_other_cells(
    cell: Cell, sources: dict[str, Path], pretrained: Path, tmp_path: Path
) -> None:
    walk(cell, sources, pretrained, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["early-features", "tail"])
@pytest.mark.parametrize("network", MISSION)
def test_the_same_answers_all_the_way_by_the_networks_of_the_texts(
    network: str, strategy: str, sources: dict[str, Path], pretrained: Path, tmp_path: Path
) -> None:
    # A narrow AlexNet of random weights is so sure of what it was solved for that its first loss is called exploded.
    with nullcontext() if network == "alexnet" else slim_networks():
        walk(Cell(strategy, OWN, MULTICLASS, network, ONNX), sources, pretrained, tmp_path)


def walk(cell: Cell, sources: dict[str, Path], pretrained: Path, folder: Path) -> None:
    """From images to a client's answer."""
    made = fitted(cell, sources, pretrained, folder / "model")
    classifier = load(folder / "model")
    every = sorted(source_of(cell, sources).parent.rglob("*.png"))
    images = every[1 :: len(every) // 3]  # of all classes
    answers = classifier.predict(images)
    assert answers == made.predict(images)
    del made  # VGG-16 is half a gigabyte each time
    different(answers)
    trained(cell, classifier, pretrained)
    scored(cell, classifier, folder / "model", source_of(cell, sources))
    explained(classifier, images[:1])  # of one: a head without a slope takes 50 passes for each
    changed = updated(cell, classifier, source_of(cell, sources), folder / "model2")
    del classifier
    gc.collect()
    exported(cell, changed, images, folder)


WITHOUT = """
import sys
for name in ("torch", "torchvision", "timm", "peft", "sklearn"):
    sys.modules[name] = None
import graft
classifier = graft.load(sys.argv[1])
for each in classifier.predict(sys.argv[2:]):
    print(f"{each.label}/{each.unknown}/{max(each.probabilities.values()):.6f}")
"""


@pytest.mark.parametrize(
    "strategy", ["probe", "tail", *(pytest.param(each, marks=pytest.mark.slow) for each in ("lora", "norm"))]
)
def test_a_saved_classifier_answers_where_pytorch_is_not_installed(
    strategy: str, sources: dict[str, Path], pretrained: Path, tmp_path: Path
) -> None:
    cell = next(cell for cell in [*QUICK, *WHOLE] if cell.strategy == strategy and cell.task == MULTICLASS)
    made = fitted(cell, sources, pretrained, tmp_path / "model")
    images = [str(path) for path in sorted(source_of(cell, sources).parent.rglob("*.png"))[::3]]
    words = [sys.executable, "-c", WITHOUT, str(tmp_path / "model"), *images]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [f"{each.label}/{each.unknown}/{max(each.probabilities.values()):.6f}" for each in made.predict(images)]
    assert done.stdout.split("\n")[:-1] == told


def different(answers: Sequence[Prediction]) -> None:
    """A classifier that says the same of every image proves nothing."""
    found = np.array([list(each.probabilities.values()) for each in answers])
    assert (np.ptp(found, axis=0) / found.mean(axis=0)).max() > 1e-5  # float32 tells 1e-7 apart


def trained(cell: Cell, classifier: Classifier, pretrained: Path) -> None:
    """What should have learned did, and nothing else."""
    assert classifier.card.choices["strategy"] == cell.plan
    if not cell.trains or cell.strategy == "scratch" or cell.network in SMALL:
        return
    before = load_file(pretrained / f"{cell.network}.safetensors")
    now = {name: each for name, each in classifier.network.features.graph.tensors.items() if name in before}
    moved = {name for name, tensor in now.items() if not np.array_equal(tensor, before[name])}
    phases, kept = classifier.report["phases"], classifier.report["training"]["kept"]
    ends = np.cumsum([phase["epochs"] for phase in phases])
    phase = phases[int(np.searchsorted(ends, kept))]  # the one of the epoch that was kept
    frozen = tuple(f"{name}." for name in phase["frozen"])
    assert bool(moved) == (len(phase["trained"]) > 1)
    assert not [name for name in moved if frozen and name.startswith(frozen)]


def scored(cell: Cell, classifier: Classifier, folder: Path, source: Path) -> None:
    """The score on the card is the one that comes out again."""
    before, again = classifier.report["evaluation"], evaluate(folder, source).as_dict()
    if cell.task == MULTILABEL or cell.strategy == "direct":  # of class folders evaluate takes all images
        assert again["count"] == before["count"]
        assert again["log_loss"] == pytest.approx(before["log_loss"], abs=1e-4)
    if cell.task != MULTILABEL:
        assert 0 <= again["accuracy"] <= 1


def explained(classifier: Classifier, images: Sequence[Path]) -> None:
    """A map of each image for its own answer."""
    for one, other in zip(explain(classifier, images), classifier.predict(images), strict=True):
        assert isinstance(one, Explanation)
        assert one.prediction == other
        assert np.isfinite(one.saliency).all()


def updated(cell: Cell, classifier: Classifier, source: Path, output: Path) -> Classifier:
    """Classes merged where a head was solved; else one renamed, which is all that can be done."""
    first, second = classifier.classes[:2]
    if cell.solved and cell.task != MULTILABEL:
        after = update(
            classifier, output, merge={"both": [first, second]}, photos=source, allow_worse=True, report=False
        )
    else:
        after = update(classifier, output, rename={first: "both"}, report=False)
        assert after.classes == ("both", *classifier.classes[1:])
    again = load(output)
    assert again.classes == after.classes
    assert "both" in again.classes
    return again


def exported(cell: Cell, classifier: Classifier, images: Sequence[Path], folder: Path) -> None:
    """A file of the format answers as the classifier; of ONNX files so do the runtime and a server."""
    to = ONNX if cell.format == INT8 else cell.format
    file = folder / f"client{ENDING[cell.format]}"
    done = export(classifier, file, to=to, int8=cell.format == INT8, check=images[0].parent, allow_loss=0.5)
    if cell.format == INT8:
        return
    assert done["parity"]["changed"] == 0
    assert done["parity"]["worst"] <= CLOSE
    if to not in (ONNX, OPENVINO):
        return
    answers = classifier.predict(images)
    alike(graft_runtime.load(file).predict(images), answers)
    with running(file) as server:
        for image, answer in zip(images, answers, strict=True):
            (said,) = server.post(content=image.read_bytes()).json()["predictions"]
            assert said["label"] == answer.label
            assert said["unknown"] == answer.unknown


def alike(one: Sequence[Prediction], other: Sequence[Prediction]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert (mine.label, mine.labels, mine.unknown) == (theirs.label, theirs.labels, theirs.unknown)
        assert list(mine.probabilities.values()) == pytest.approx(list(theirs.probabilities.values()), abs=CLOSE)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def refused(found: Sequence[Cell]) -> list[Cell]:
    """Each reason with each strategy and head, and with each task and network."""
    ways = {(reason(cell), cell.strategy, cell.head): cell for cell in found}
    places = {(reason(cell), cell.task, cell.network): cell for cell in found}
    return list(dict.fromkeys([*ways.values(), *places.values()]))


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=cell.name) for cell in refused([c for c in cells() if reason(c)])]
)
def test_what_cannot_be_is_told_before_any_image_is_looked_at(
    cell: Cell, sources: dict[str, Path], pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.jobs.fit.embed", lambda *_, **__: pytest.fail("images were embedded first"))
    with pytest.raises(GraftError, match=reason(cell)):
        fitted(cell, sources, pretrained)
