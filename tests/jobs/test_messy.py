"""A folder half of which is broken, odd or hostile: trained on, judged and embedded to the end, each bad file named."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

from graft.jobs.check.check import check
from graft.jobs.embed import embed
from graft.jobs.fit import fit
from graft.jobs.predict import predict
from graft_runtime.formats import SUFFIXES

CLASSES = ("daisy", "rose")


@pytest.fixture(scope="module")
def wanted(shared: Path) -> dict[str, str]:
    """What is to become of each messy file that is an image by its ending: yes, no or either."""
    with (shared / "data/messy/MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row["tolerant_loader_should_decode"] for row in csv.DictReader(file)}
    return {name: said for name, said in rows.items() if name.lower().endswith(SUFFIXES)}


@pytest.fixture(scope="module")
def mixed(shared: Path, wanted: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of flowers, in each as many photos as messy files; and a pipe, which has no end."""
    root = tmp_path_factory.mktemp("mixed")
    folders = sorted(folder for folder in (shared / "data/flowers5/train").iterdir() if folder.is_dir())
    messy = sorted(wanted)
    for number, (name, folder) in enumerate(zip(CLASSES, folders, strict=False)):
        mine = messy[number::2]
        (root / name).mkdir()
        for photo in sorted(folder.iterdir())[: len(mine)]:
            shutil.copy(photo, root / name / f"photo {photo.name}")
        for file in mine:
            shutil.copyfile(shared / "data/messy" / file, root / name / file.replace("/", "__"))
    os.mkfifo(root / CLASSES[0] / "pipe.jpg")
    return root


def misjudged(faults: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Where the manifest was not followed, or a good photo was refused."""
    wrong = [name for name in faults if "photo " in name]
    bad = {name.partition("/")[2].replace("__", "/"): why for name, why in faults.items()}
    wrong += [f"{name}: {bad.get(name)}" for name, said in wanted.items() if said == "yes" and name in bad]
    wrong += [name for name, said in wanted.items() if said == "no" and not bad.get(name)]
    return wrong


@pytest.mark.fault(8)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's remarks on odd files, as a user would have them
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_half_of_the_files_are_messy(mixed: Path, wanted: dict[str, str], tmp_path: Path) -> None:
    strategy = "probe:head=ridge,layers=last"
    classifier = fit(mixed, tmp_path / "model", strategy=strategy, offline=True)
    faults = classifier.report["data"]["faults"]
    assert misjudged(faults, wanted) == []
    assert faults[f"{CLASSES[0]}/pipe.jpg"] == "not a file"
    assert len(faults) > 50
    assert classifier.report["data"]["train"] + classifier.report["data"]["test"] > 200

    found = predict(classifier, [mixed])
    said = {str(Path(each.image).relative_to(mixed)): each for each in found}
    assert misjudged({name: each.fault for name, each in said.items() if each.fault}, wanted) == []
    assert all(bool(each.fault) != bool(each.label or each.unknown) for each in found)

    for quick in (False, True):
        report = check(mixed, offline=True, quick=quick)
        (unread,) = (each for each in report.findings if each.kind == "unreadable")
        named = {report.data.name(row): note for (row,), note in zip(unread.cases.tolist(), unread.notes, strict=True)}
        assert named == faults
        report.write(tmp_path / f"{quick}.html")
    misnamed = {
        report.data.name(row) for each in report.findings if each.kind == "misnamed" for (row,) in each.cases.tolist()
    }
    assert {Path(name).name.partition("__")[2] for name in misnamed if "wrong_ext" in name} == {
        f"{name}.jpg" for name in ("cloudy131", "rain136", "rain141", "rain26", "shine127", "shine131")
    }

    table = embed(mixed, offline=True)
    assert table.faults == faults
    assert len(table.names) + len(faults) == len(said)
    assert said[f"{CLASSES[0]}/pipe.jpg"].fault == "not a file"
