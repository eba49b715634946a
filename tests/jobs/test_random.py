"""Any network with random weights, for any strategy: what pretraining is worth, told truthfully wherever it is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from tensors import same, tensors
from typer.testing import CliRunner

from graft.backbones.backbone import load_backbone
from graft.backbones.features import build_probe_features
from graft.cli import app
from graft.data.readers.folder import read_folder
from graft.errors import DataError, GraftError, UsageError, WeightsError
from graft.jobs.check.check import check
from graft.jobs.embed import embed
from graft.jobs.fit import fit
from graft.jobs.update.update import update
from graft.model.classifier import load
from graft.torch.restore import build_random_module
from graft.training.plan import Plan
from graft.training.strategies import STRATEGIES

PROBE = "probe:head=ridge,layers=last"
SMALL: dict[str, Any] = {"backbone": "test_resnet", "offline": True, "report": False}
TEXTS = {"tail": "tail:cut=0.5,views=1", "lora": "lora:rank=2"}
RECIPES = dict.fromkeys(STRATEGIES, "epochs=4,refit=no") | dict.fromkeys(("probe", "early-features"))
TAKES_NO_FILE = ("direct", "scratch")


def drawn(seed: int, folder: Path) -> Path:
    """The weights that a seed draws, in a file, as if they had been published."""
    save_file(build_random_module("test_resnet", seed).module.state_dict(), folder / "drawn.safetensors")
    return folder / "drawn.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "probe",
        *(pytest.param(each, marks=pytest.mark.slow) for each in STRATEGIES if each not in (*TAKES_NO_FILE, "probe")),
    ],
)
def test_it_is_what_a_file_with_the_same_weights_gives(
    name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = SMALL | {"strategy": TEXTS.get(name, name), "recipe": RECIPES[name], "seed": 3}
    random = fit(photos, tmp_path / "model", weights="random", **options)
    monkeypatch.setattr(
        "graft.jobs.fit.select_duplicate_backbone", lambda _pretrained, offline: load_backbone(offline=offline)
    )
    filed = fit(photos, weights=drawn(3, tmp_path), **options)
    assert same(random, filed)
    state, saved = tensors(random.network), tensors(load(tmp_path / "model").network)
    assert all(np.array_equal(each, state[key]) for key, each in saved.items())
    assert saved.keys() == state.keys() or name == "early-features"  # what it does not read is not saved
    assert random.report["evaluation"] == filed.report["evaluation"]
    assert random.card.backbone | {"name": ""} == {
        "name": "",
        "library": "timm",
        "origin": "drawn with seed 3",
        "where": "random",
        "sha256": "",
        "licence": "not needed",
    }
    assert random.card.choices["weights"] == "random"
    assert random.report["weights"] == {"where": "random", "origin": "drawn with seed 3"}


@pytest.mark.slow
def test_the_default_network_looks_for_near_duplicates_and_is_not_what_the_head_reads(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    from graft.features.embed import embed as job

    monkeypatch.setattr(
        "graft.jobs.fit.embed", lambda frozen, *a, **k: keys.append(frozen.cache_key()) or job(frozen, *a, **k)
    )
    made = fit(
        photos, strategy=PROBE, weights="random", offline=True, seed=1
    )  # the default network, with other weights
    assert keys == [build_probe_features(load_backbone(offline=True)).cache_key()]
    begin = build_random_module("tf_efficientnet_lite0", 1).module.state_dict()
    state = made.network.features.graph.tensors
    assert all(np.array_equal(value, state[name]) for name, value in begin.items())
    names = sorted((photos / "disc").iterdir())
    pixels = read_folder(photos)
    assert len(pixels) > len(names)
    exam = made.memory and made.memory.tested
    assert exam
    chances, _, _ = made.predict_probs(pixels)
    rows = [pixels.names().index(name) for name in exam.names]
    kept = np.take_along_axis(chances[rows], exam.columns, axis=1)
    np.testing.assert_allclose(kept, exam.chances, atol=1e-4)  # from the store = from the network itself


@pytest.mark.slow
def test_scratch_begins_there_anyway(photos: Path) -> None:
    options: dict[str, Any] = SMALL | {"backbone": "cnn", "strategy": "scratch", "recipe": "epochs=1,refit=no"}
    assert same(fit(photos, weights="random", **options), fit(photos, **options))


# --- told -------------------------------------------------------------------------------------------------------------


def test_the_summary_the_card_and_the_readme_say_so(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    words = ("fit", photos, "-o", output, "-s", PROBE, "--weights", "random", "--backbone", "cnn", "--seed", 4)
    done = CliRunner().invoke(app.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "  weights      random, drawn with seed 4: pretrained on nothing\n" in done.stdout
    readme = (output / "README.md").read_text(encoding="utf-8")
    assert "- backbone: cnn, random weights, drawn with seed 4: pretrained on nothing\n" in readme
    assert "cnn (random weights, drawn with seed 4)" in (output / "report.html").read_text(encoding="utf-8")
    card = json.loads((output / "model.json").read_text(encoding="utf-8"))
    assert (card["backbone"]["where"], card["choices"]["weights"]) == ("random", "random")


@pytest.mark.slow
def test_a_file_of_that_name_is_reached_by_its_path(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="There is no weights file random"):
        fit(photos, weights="./random", **SMALL)
    drawn(0, tmp_path).rename("random")
    for name in ("./random", Path("random")):
        assert fit(photos, strategy=PROBE, weights=name, **SMALL).card.backbone["where"] == "file"
    assert fit(photos, strategy=PROBE, weights="random", **SMALL).card.backbone["where"] == "random"


@pytest.mark.slow
def test_choices_that_are_taken_over_have_it_with_them_until_a_file_is_named(photos: Path, tmp_path: Path) -> None:
    first = fit(photos, tmp_path / "model", strategy=PROBE, weights="random", seed=2, **SMALL)
    again = fit(photos, plan=Plan.read(tmp_path / "model"), offline=True)
    assert same(first, again)
    assert again.card.choices == first.card.choices
    assert (
        fit(photos, plan=Plan.read(tmp_path / "model"), seed=5, offline=True).card.backbone["origin"]
        == "drawn with seed 5"
    )
    filed = fit(photos, plan=Plan.read(tmp_path / "model"), weights=drawn(2, tmp_path), offline=True)
    assert (filed.card.backbone["where"], filed.card.choices["weights"]) == ("file", "")


@pytest.mark.slow
def test_a_run_with_other_weights_is_another_run(photos: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(_epoch: Any) -> None:
        raise Stopped

    options: dict[str, Any] = SMALL | {"strategy": "tail:cut=0.5,views=1", "recipe": "epochs=2,batch=8,refit=no"}
    with pytest.raises(Stopped):
        fit(photos, tmp_path / "model", weights="random", on_epoch=stop, **options)
    with pytest.raises(UsageError, match=r'weights: was "drawn with seed 0", now "[0-9a-f]{64}"'):
        fit(photos, tmp_path / "model", weights=drawn(0, tmp_path), resume=True, **options)
    resumed = fit(photos, tmp_path / "model", weights="random", resume=True, **options)
    assert same(resumed, fit(photos, weights="random", **options))


# --- updated ----------------------------------------------------------------------------------------------------------


def merged(photos: Path, root: Path, names: dict[str, str]) -> Path:
    """Nine images of each class in `train`, three in `test`, under other names of the classes."""
    for name, new in names.items():
        for place, path in enumerate(sorted((photos / name).iterdir())):
            target = root / ("train" if place < 9 else "test") / new
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / f"{name}{path.name}")
    return root


@pytest.mark.slow
def test_an_update_keeps_the_network_and_is_what_a_fit_gives(photos: Path, tmp_path: Path) -> None:
    names = {"disc": "disc", "frame": "frame", "stripes": "stripes"}
    options: dict[str, Any] = SMALL | {"strategy": PROBE, "weights": "random", "seed": 6}
    fit(merged(photos, tmp_path / "three", names), tmp_path / "old", **options)
    new = update(tmp_path / "old", tmp_path / "new", merge={"round": ("disc", "frame")}, allow_worse=True)
    whole = fit(merged(photos, tmp_path / "two", names | {"disc": "round", "frame": "round"}), **options)
    assert new.classes == whole.classes == ("round", "stripes")
    assert same(new, whole)
    assert same(new, load(tmp_path / "new"))
    assert new.card.backbone == whole.card.backbone
    assert new.card.choices["weights"] == "random"
    assert new.report["weights"] == {"where": "random", "origin": "drawn with seed 6"}
    assert new.report["evaluation"] == whole.report["evaluation"]


@pytest.mark.slow
def test_an_update_without_the_features_of_this_network_says_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    fit(photos, tmp_path / "old", strategy=PROBE, weights="random", **SMALL)
    kept = build_probe_features(load_backbone(offline=True)).cache_key()
    for folder in (tmp_path / "cache" / "features").iterdir():
        if folder.name != kept:
            shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"36 of the 36 images of before are not in the cache"):
        update(tmp_path / "old", merge={"round": ("disc", "frame")}, allow_worse=True)
    assert update(tmp_path / "old", merge={"round": ("disc", "frame")}, photos=photos, allow_worse=True).classes == (
        "round",
        "stripes",
    )


# --- refused ----------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], type[GraftError], str]] = [
    ({"strategy": "direct", "weights": "random"}, UsageError, "random ones were trained on none"),
    ({"strategy": "scratch", "weights": "some.pth"}, UsageError, "Leave --weights out"),
    ({"backbone": "cnn"}, WeightsError, "--weights random"),
]


@pytest.mark.parametrize(("options", "kind", "says"), WRONG, ids=[says for _, _, says in WRONG])
def test_what_cannot_be_is_told(options: dict[str, Any], kind: type[GraftError], says: str, photos: Path) -> None:
    with pytest.raises(kind, match=says):
        fit(photos, **options)


@pytest.mark.parametrize("job", [embed, check])
def test_what_only_looks_has_no_use_for_them(job: Any, photos: Path) -> None:
    with pytest.raises(UsageError, match=r"Random weights are for `graft fit`.*\./random"):
        job(photos, weights="random")
