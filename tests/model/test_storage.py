"""A classifier on disk: whole or not there, and each way of being damaged has a message of its own."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors
from safetensors.torch import save_file

from graft import spec
from graft.backbones import catalog
from graft.backbones.backbone import Backbone
from graft.backbones.features import Features
from graft.errors import GraftError, GraftWarning, ModelError, OutputError
from graft.heads.designs import HEADS
from graft.jobs.fit import fit
from graft.model import storage
from graft.model.card import build_card
from graft.model.classifier import Classifier, load
from graft.model.network import Network
from graft.torch.build import build_network
from graft.torch.head import HeadModule, build_head, head_to_arrays
from graft.torch.restore import build_random_backbone, network_to_module

QUICK = "probe:head=ridge,layers=last"


def sha(folder: Path, name: str = "model.safetensors") -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def hidden(folder: Path) -> list[str]:
    """What a save may leave beside the classifier."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What makes `fit` use a small network of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(build_network(catalog.find_entry("test_resnet")).state_dict(), path)
    return {"strategy": QUICK, "backbone": "test_resnet", "weights": path, "offline": True}


@pytest.fixture(scope="module")
def classifier(photos: Path, small: dict[str, Any]) -> Classifier:
    return fit(photos, **small)


@pytest.fixture(scope="module")
def other(photos: Path, small: dict[str, Any]) -> Classifier:
    return fit(photos, **small, seed=1)


@pytest.fixture
def model(classifier: Classifier, tmp_path: Path) -> Path:
    return classifier.save(tmp_path / "model")


# --- saved = loaded ---------------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_what_was_in_memory(classifier: Classifier, model: Path) -> None:
    loaded = load(model)
    pairs = [(each.network.features.graph.tensors, each.network.head.tensors) for each in (classifier, loaded)]
    for mine, theirs in zip(*pairs, strict=True):
        assert sorted(mine) == sorted(theirs)
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
        assert all(mine[name].dtype == theirs[name].dtype for name in mine)
    own, read = classifier.network.features.graph, loaded.network.features.graph
    assert (read.stages, read.top_is_average, read.shapes, read.identity) == (
        *(own.stages, own.top_is_average, own.shapes, own.identity),
    )
    assert loaded.report == json.loads(json.dumps(classifier.report))
    assert loaded.card.temperature == classifier.card.temperature
    assert loaded.card.weights == {name: sha(model, name) for name in (storage.TENSORS, storage.GRAPH, storage.MEMORY)}
    assert sorted(path.name for path in model.iterdir()) == sorted(
        (*storage.REQUIRED_FILES, storage.GRAPH, storage.MEMORY)
    )
    assert hidden(model.parent) == []


def test_the_same_classifier_is_saved_to_the_same_bytes(classifier: Classifier, model: Path, tmp_path: Path) -> None:
    load(model).save(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()
    }


READS: dict[str, dict[str, Any]] = {
    "last": {"layers": ()},
    "all": {"layers": ("layer1", "layer3")},
    "early": {"layers": ("layer1", "layer2"), "top": False},
    "map": {"layers": ("layer3",), "pool": False},
}


@functools.cache
def start(seed: int = 0) -> Backbone:
    return build_random_backbone("test_resnet", seed)


def made(head: str, reads: str, seed: int = 0) -> Classifier:
    """A classifier of random weights: this head on these features."""
    torch.manual_seed(seed)
    backbone = start(seed)
    features = Features(backbone.graph, backbone.preprocess, **READS[reads])
    if head == "knn":
        judge = HeadModule({"kind": "knn", "width": features.width, "classes": 3, "stored": 9, "neighbours": 4})
        judge.load_state_dict(
            {name: torch.rand(each.shape).to(each.dtype) for name, each in judge.state_dict().items()}
        )
    else:
        judge = build_head(spec.parse(head, HEADS, "head"), features.shape, 3)
        judge.standardise(torch.rand(features.width), torch.rand(features.width) + 0.5)
    network = Network(features, head_to_arrays(judge))
    card = build_card(network, backbone, ("a", "b", "c"), "test", 1.0)
    data = {"train": 0, "test": 0, "seed": 0}
    return Classifier(network, replace(card, head=card.head | {"solver": "none"}, data=data))


HEAD_TEXTS = ("linear:init=he_normal", "mlp:hidden=8+5,activation=gelu,dropout=0.5", "knn")
PAIRS = [(head, reads) for head in HEAD_TEXTS for reads in READS] + [
    ("conv:filters=4", "map"),
    ("conv:filters=4,padding=valid,seed=1+2+3+4", "map"),
]


@pytest.mark.parametrize(("head", "reads"), PAIRS)
def test_each_head_on_each_kind_of_features_comes_back_bit_for_bit(head: str, reads: str, tmp_path: Path) -> None:
    classifier = made(head, reads)
    loaded = load(classifier.save(tmp_path / "model"))
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 160, 160), np.uint8)
    answers = classifier.network(images)
    assert np.array_equal(loaded.network(images), answers)
    assert not np.array_equal(made(head, reads, seed=1).network(images), answers)
    assert (loaded.card.top, loaded.card.pool) == (reads in ("last", "all"), reads != "map")


def test_a_card_that_names_another_network_answers_by_its_graph_and_is_never_trained_on(
    classifier: Classifier, model: Path
) -> None:
    """What answers is the graph; the name is that of the module, whose weights these are not."""
    edit(model, backbone=json.loads((model / "model.json").read_text())["backbone"] | {"name": "resnet18"})
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 160, 160), np.uint8)
    loaded = load(model)
    assert np.array_equal(loaded.network(images), classifier.network(images))
    with pytest.raises(ModelError, match=r"The weights are not those of 'resnet18': "):
        network_to_module(loaded.network, loaded.card)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "reads"), [("linear:init=he_normal", "all"), ("knn", "early"), PAIRS[-1]])
def test_a_folder_of_before_without_a_graph_answers_the_same(head: str, reads: str, tmp_path: Path) -> None:
    classifier = made(head, reads)
    model = classifier.save(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 160, 160), np.uint8)
    answers = load(model).network(images)
    of_before(model, dict)
    loaded = load(model)
    assert storage.GRAPH not in loaded.card.weights
    np.testing.assert_allclose(loaded.network(images), answers, atol=1e-5 * np.abs(answers).max())
    network_to_module(loaded.network, loaded.card)
    again = loaded.save(tmp_path / "again")  # in the form of today
    assert storage.GRAPH in load(again).card.weights
    np.testing.assert_array_equal(load(again).network(images), loaded.network(images))


def test_a_folder_of_before_whose_last_layer_was_read_before_its_activation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READS, "activated", {"layers": ("bn1",), "top": False})
    model = made("linear:init=he_normal", "activated").save(tmp_path / "model")
    of_before(model, dict)
    with pytest.raises(ModelError, match=r"model cannot be read: This graft reads the layer 'bn1' after .* Fit it"):
        load(model)


def of_before(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The same folder in the form of before, with other tensors."""
    held = safetensors.load((model / storage.TENSORS).read_bytes())
    change(held)
    (model / storage.TENSORS).write_bytes(safetensors.save(held))
    (model / storage.GRAPH).unlink()
    edit(model, weights={storage.TENSORS: sha(model)})


@pytest.mark.parametrize(
    ("reads", "change", "message"),
    [
        ("last", lambda held: held.update({"head.mean": held["head.mean"][1:]}), "the head's 'mean' must be"),
        ("last", lambda held: held.pop("features.backbone.layer1.0.bn1.bias"), "missing layer1.0.bn1.bias"),
        ("last", lambda held: held.update(more=held["head.mean"]), "unexpected more"),
        ("early", lambda held: without(held, "layer2"), "This stage was left out"),
        ("early", lambda held: without(held, "layer1"), "This stage was left out"),
    ],
)
def test_a_folder_of_before_that_is_none_is_refused(
    reads: str, change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    model = made("linear:init=he_normal", reads).save(tmp_path / "model")
    of_before(model, change)
    with pytest.raises(
        ModelError, match=rf"{storage.TENSORS} and .*{storage.CARD} do not belong together: .*{message}"
    ):
        load(model)


def without(held: dict[str, Any], stage: str) -> None:
    for name in [name for name in held if f".{stage}." in name]:
        held.pop(name)


def test_a_card_of_the_first_version_reads_the_last_layer_and_pools(classifier: Classifier, model: Path) -> None:
    card = json.loads((model / "model.json").read_text())
    for name in ("top", "pool"):
        card.pop(name)
    (model / "model.json").write_text(json.dumps(card))
    features = load(model).network.features
    assert (features.top, features.pool) == (True, True)


# --- damage -----------------------------------------------------------------------------------------------------------


def edit(model: Path, **entries: Any) -> None:
    card = json.loads((model / "model.json").read_text())
    card.update(entries)
    (model / "model.json").write_text(json.dumps(card))


def flip(model: Path) -> None:
    raw = bytearray((model / "model.safetensors").read_bytes())
    raw[len(raw) // 2] ^= 1
    (model / "model.safetensors").write_bytes(raw)


def cut(model: Path) -> None:
    os.truncate(model / "model.safetensors", 100_000)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped": (flip, "model.safetensors is damaged: its SHA-256"),
    "truncated": (cut, "model.safetensors is damaged: its SHA-256"),
    "no memory": (lambda model: (model / "memory.safetensors").unlink(), "memory.safetensors cannot be read: No such"),
    "memory cut": (lambda model: os.truncate(model / "memory.safetensors", 99), "memory.safetensors is damaged"),
    "no graph": (lambda model: (model / "graph.onnx").unlink(), "graph.onnx cannot be read: No such"),
    "graph cut": (lambda model: os.truncate(model / "graph.onnx", 999), "graph.onnx is damaged: its SHA-256"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "model.safetensors cannot be read: No such"),
    "no card": (lambda model: (model / "model.json").unlink(), "is no saved classifier.*model.json"),
    "no report": (lambda model: (model / "report.json").unlink(), "report.json cannot be read"),
    "no folder": (shutil.rmtree, "is no saved classifier.*Name the folder"),
    "not JSON": (lambda model: (model / "model.json").write_text("{"), "it is not JSON"),
    "not text": (lambda model: (model / "model.json").write_bytes(b"\xff\xfe"), "model.json cannot be read"),
    "another JSON": (lambda model: (model / "model.json").write_text("[1]"), "not written by graft"),
    "newer": (lambda model: edit(model, schema=99), "schema 99.*please update graft"),
    "fewer classes": (lambda model: edit(model, classes=["disc", "frame"]), "3 outputs, the card 2 classes"),
    "twice a class": (lambda model: edit(model, classes=["disc", "disc", "frame"]), "same name"),
    "no list": (lambda model: edit(model, classes=3), "'classes' is no list of names"),
    "no number": (lambda model: edit(model, temperature="hot"), "'temperature' cannot be 'hot'"),
    "no network": (lambda model: edit(model, backbone={"name": "nonsense"}), "do not belong together.*nonsense"),
    "no head": (lambda model: edit(model, head={"kind": "oracle", "width": 1, "classes": 3}), "do not belong together"),
    "no such layer": (lambda model: edit(model, layers=["attic"]), "do not belong together"),
    "no temperature": (lambda model: edit(model, temperature=0), "must be above 0"),
    "no top": (lambda model: edit(model, top=False), "do not belong together.*Early features"),
    "no map": (lambda model: edit(model, pool=False), "do not belong together.*A feature map is that of one layer"),
    "other layers": (lambda model: edit(model, layers=["blocks.0"]), "do not belong together"),
}


@pytest.mark.fault(33)
@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_has_a_message_of_its_own(model: Path, damage: str) -> None:
    make, message = DAMAGE[damage]
    make(model)
    with pytest.raises(ModelError, match=message):
        load(model).predict(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.fault(33)
@pytest.mark.parametrize("value", [None, "x", -1, 0, [], {}, [[]]])
def test_no_edited_card_raises_anything_but_a_graft_error(model: Path, value: Any) -> None:
    original = (model / "model.json").read_text()
    for name in ("classes", "preprocess", "backbone", "head", "temperature", "weights", "layers", "schema", "strategy"):
        (model / "model.json").write_text(original)
        edit(model, **{name: value})
        with suppress(GraftError):
            load(model).predict(np.zeros((8, 8, 3), np.uint8))


# --- where it may write -----------------------------------------------------------------------------------------------


def test_an_existing_classifier_is_replaced_only_with_force(other: Classifier, model: Path) -> None:
    before = sha(model)
    with pytest.raises(OutputError, match=r"already holds a classifier.*--force"):
        other.save(model)
    assert sha(model) == before
    other.save(model, force=True)
    assert sha(model) != before
    assert hidden(model.parent) == []


@pytest.mark.parametrize("name", ["photo.jpg", "README.md", "report.json", ".hidden", "disc/"])
def test_a_folder_with_anything_of_the_users_is_never_replaced(
    classifier: Classifier, tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).mkdir() if name.endswith("/") else (mine / name).write_text("mine")
    with pytest.raises(OutputError, match="which graft did not write"):
        classifier.save(mine, force=True)
    assert (mine / name).is_dir() or (mine / name).read_text() == "mine"
    assert hidden(tmp_path) == []


def test_a_classifier_with_a_foreign_file_in_it_is_not_replaced(classifier: Classifier, model: Path) -> None:
    (model / "notes.txt").write_text("mine")
    before = sha(model)
    with pytest.raises(OutputError, match=r"notes\.txt"):
        classifier.save(model, force=True)
    assert ((model / "notes.txt").read_text(), sha(model)) == ("mine", before)


def test_what_a_file_browser_left_behind_is_nobodys(classifier: Classifier, model: Path) -> None:
    (model / ".DS_Store").write_bytes(b"litter")
    classifier.save(model, force=True)
    assert load(model).classes == classifier.classes


def test_an_empty_folder_is_filled_and_a_file_in_the_way_is_kept(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    classifier.save(tmp_path / "empty")
    assert load(tmp_path / "empty").classes == classifier.classes
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file"):
        classifier.save(tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "mine"


# --- whole or not at all ----------------------------------------------------------------------------------------------


class Faulty:
    """Counts calls of what a save does to the disk, and makes one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int, fault: BaseException) -> None:
        self.calls, self.failing, self.fault = 0, failing, fault
        for name in ("mkdir", "rename", "read_bytes"):
            monkeypatch.setattr(Path, name, self.wrapped(getattr(Path, name)))
        monkeypatch.setattr(storage.os, "fsync", self.wrapped(os.fsync))
        monkeypatch.setattr(storage, "_write", self.wrapped(storage._write))

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.failing:
                raise self.fault
            return function(*args, **options)

        return call


@pytest.mark.slow
@pytest.mark.fault(40)
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_whichever_step_fails_there_is_the_old_classifier_or_the_new_and_no_litter(
    classifier: Classifier, other: Classifier, tmp_path: Path, fault: BaseException
) -> None:
    new = sha(other.save(tmp_path / "new"))
    outcomes = []
    for failing in range(1, 40):
        place = tmp_path / f"{failing}"
        old = sha(classifier.save(place / "model"))
        with pytest.MonkeyPatch.context() as patch:
            faulty = Faulty(patch, failing, fault)
            try:
                other.save(place / "model", force=True)
            except (OutputError, KeyboardInterrupt) as error:
                outcomes.append(type(error))
        assert sha(place / "model") in (old, new)
        load(place / "model")
        with storage.lock_folder(place / "model", force=True):
            pass
        assert hidden(place) == []
        shutil.rmtree(place)
        if faulty.calls < failing:
            break
    assert len(outcomes) >= 12, "the faults missed the steps of a save"
    assert faulty.calls < failing


def test_the_next_run_sweeps_what_a_killed_one_left_and_brings_back_what_it_moved_aside(model: Path) -> None:
    before, beside = sha(model), model.parent
    half = beside / ".model.0123abcd"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    model.rename(beside / ".model.89abcdef.old")
    with pytest.raises(OutputError, match="already holds a classifier"), storage.lock_folder(model, force=False):
        pass
    assert sha(model) == before
    assert hidden(beside) == []


def test_the_sweep_leaves_alone_whatever_it_did_not_make(classifier: Classifier, model: Path) -> None:
    mine = [".model.backup-2024", ".model.2024-05-01.0123abcd", ".model.mybackup", ".models.0123abcd", ".model"]
    for name in mine:
        classifier.save(model.parent / name)
    photos = model.parent / ".model.0123abcd"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"mine")
    with storage.lock_folder(model, force=True):
        pass
    assert hidden(model.parent) == sorted([*mine, ".model.0123abcd"])
    assert (photos / "cat.jpg").read_bytes() == b"mine"


# --- other processes --------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from graft.model import storage
with storage.lock_folder(Path(sys.argv[1]), force=False):
    print("claimed", flush=True)
    time.sleep(100)
"""


@pytest.mark.fault(36)
@pytest.mark.slow
def test_a_second_run_into_one_folder_is_refused_at_once_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout
        assert first.stdout.readline() == "claimed\n"
        with pytest.raises(OutputError, match="Another run is writing"), storage.lock_folder(folder, force=True):
            pass
        assert OutputError.exit_code == 6
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    with storage.lock_folder(folder, force=False):
        pass
    assert hidden(tmp_path / "models") == []


@pytest.fixture
def small_files() -> Any:
    """A file may grow to 1 MB, as if the disk were full then; a Python process ignores the signal of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault(34)
def test_a_disk_that_is_full_while_saving_keeps_the_old_classifier(
    other: Classifier, model: Path, small_files: Callable[[], None]
) -> None:
    before = sha(model)
    small_files()
    with pytest.raises(OutputError, match=rf"MB\) could not be written to {model}.*File too large"):
        other.save(model, force=True)
    assert sha(model) == before
    assert hidden(model.parent) == []


@pytest.mark.slow
@pytest.mark.fault(34)
def test_a_disk_that_is_full_while_caching_is_told_with_the_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        full = rf"could not be cached in {tmp_path}.*GRAFT_CACHE"
        with pytest.warns(GraftWarning, match="cannot be kept in"), pytest.raises(OutputError, match=full):
            fit(photos, tmp_path / "model", strategy=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "model").exists()
    fit(photos, tmp_path / "model", strategy=QUICK)  # with space again, what was half written does no harm
    assert load(tmp_path / "model").report["evaluation"]["count"] == 6


def test_the_lock_of_a_run_that_was_killed_is_our_own(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".flowers.lock").touch()  # of `fit -o models/flowers`
    (tmp_path / "models" / ".flowers.run.lock").touch()
    with storage.lock_folder(tmp_path / "models", force=False):
        pass
    (tmp_path / "models" / "mine.lock").touch()
    with (
        pytest.raises(OutputError, match=r"holds 'mine\.lock', which graft did not write"),
        storage.lock_folder(tmp_path / "models", force=True),
    ):
        pass
