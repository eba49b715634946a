"""Checking real files: each fault that was put in is found, nothing is changed, and the list that is left trains."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, draw
from PIL import Image
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.data import dataset as table
from graft.errors import DataError, OutputError, UsageError
from graft.jobs.check.check import CheckReport, check, write
from graft.jobs.fit import fit

QUICK = "probe:head=ridge,layers=last"


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def cases(report: CheckReport) -> dict[str, list[list[str]]]:
    """The images of each kind of finding."""
    return {finding["kind"]: [case["images"] for case in finding["cases"]] for finding in report.as_dict()["findings"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def spoil(train: Path, test: Path) -> None:
    """One of each fault."""
    shutil.copy(train / "disc/00.png", train / "disc/copy.png")
    shutil.copy(train / "disc/02.png", train / "frame/disputed.png")
    (train / "disc/empty.jpg").write_bytes(b"")
    (train / "disc/cut.jpg").write_bytes((train / "disc/01.jpg").read_bytes()[:700])
    shutil.copy(train / "frame/00.png", train / "frame/moved.png")
    (train / "frame/00.png").unlink()
    Image.open(train / "frame/02.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(test / "frame/mirror.png")
    Image.new("RGB", (60, 60), (250, 250, 250)).save(train / "stripes/blank.png")
    shutil.move(train / "stripes/01.jpg", train / "stripes/really.png")


@pytest.fixture(scope="module")
def spoiled(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spoiled")
    for image in sorted(photos.rglob("*.*")):
        part = "test" if image.stem >= "09" else "train"
        (root / part / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / part / image.parent.name)
    spoil(root / "train", root / "test")
    return root


@pytest.fixture(scope="module")
def report(spoiled: Path) -> CheckReport:
    before = contents(spoiled)
    found = check(spoiled, offline=True)
    assert contents(spoiled) == before
    return found


@pytest.mark.fault(1, 3, 28)
def test_each_fault_is_found_where_it_is(report: CheckReport) -> None:
    found = cases(report)
    assert found["unreadable"] == [["train/disc/cut.jpg"], ["train/disc/empty.jpg"]]
    assert found["leak"] == [["test/frame/mirror.png", "train/frame/02.png"]]
    assert found["conflict"] == [["train/disc/02.png", "train/frame/disputed.png"]]
    assert found["copy"] == [["train/disc/00.png", "train/disc/copy.png"]]
    assert found["blank"] == [["train/stripes/blank.png"]]
    assert found["misnamed"] == [["train/stripes/really.png"]]
    assert [case for case in found.get("near-duplicate", []) if "mirror" in str(case)] == []


def test_the_worst_comes_first_and_each_says_what_to_do(report: CheckReport) -> None:
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert all(finding.says and finding.advice.endswith(".") for finding in report.findings)
    assert all(len(finding.notes) in (0, len(finding.cases)) for finding in report.findings)


def test_the_report_is_plain_and_counts(report: CheckReport) -> None:
    plain = json.loads(json.dumps(report.as_dict()))
    assert (plain["images"], plain["usable"], plain["task"]) == (42, 40, "multiclass")
    assert plain["classes"] == {"disc": 13, "frame": 14, "stripes": 13}
    assert plain["parts"] == {"train": 32, "test": 10}
    assert {each["what"] for each in plain["shortcuts"]} == {"size", "border colour", "mean colour"}


def test_a_second_look_finds_the_same(report: CheckReport, spoiled: Path) -> None:
    assert check(spoiled, offline=True).as_dict() | {"seconds": 0} == report.as_dict() | {"seconds": 0}


def test_a_clean_set_has_no_errors(photos: Path) -> None:
    found = check(photos, offline=True)
    assert [finding.says for finding in found.findings if finding.severity == "error"] == []
    assert {"leak", "conflict", "copy", "unreadable", "blank"} & cases(found).keys() == set()


@pytest.mark.slow
def test_wrong_labels_are_in_doubt(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for shape, colour in CLASSES.items():
        (tmp_path / shape).mkdir()
        for number in range(25):
            draw(shape, colour, rng).save(tmp_path / shape / f"{number:02d}.png")
    shutil.move(tmp_path / "disc/03.png", tmp_path / "stripes/wrong.png")
    shutil.move(tmp_path / "disc/04.png", tmp_path / "frame/wrong.png")
    found = check(tmp_path, offline=True)
    (finding,) = (each for each in found.findings if each.kind == "label")
    told = {found.data.name(row): note for (row,), note in zip(finding.cases.tolist(), finding.notes, strict=True)}
    assert told["stripes/wrong.png"] == "rather disc?"
    assert told["frame/wrong.png"] == "rather disc?"
    assert len(told) <= 5


def test_a_shortcut_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for number, (shape, colour) in enumerate(CLASSES.items()):
        (tmp_path / shape).mkdir()
        for name in range(15):
            draw(shape, colour, rng).resize((60 + 20 * number, 80)).save(tmp_path / shape / f"{name:02d}.png")
    (finding,) = (each for each in check(tmp_path, offline=True).findings if "The size alone" in each.says)
    assert finding.kind == "shortcut"
    assert "100% of the classes (33% by chance)" in finding.says


def test_nothing_usable_is_said_too(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"nothing")
    found = check(tmp_path, offline=True)
    assert [(each.kind, each.severity) for each in found.findings] == [
        ("unreadable", "error"),
        ("empty class", "error"),
    ]


@pytest.mark.parametrize("usable", [1, 2])
def test_the_smallest_sets_are_checked(photos: Path, tmp_path: Path, usable: int) -> None:
    for name in ("disc", "frame"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.png").write_bytes(b"")
    for name in ("disc", "frame")[:usable]:
        shutil.copy(photos / name / "00.png", tmp_path / name)
    assert len(check(tmp_path, offline=True).usable) == usable


def test_a_quick_look_needs_no_network(spoiled: Path, report: CheckReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.jobs.check.check.load_backbone", None)
    quick, whole = cases(check(spoiled, quick=True)), cases(report)
    for kind in ("unreadable", "leak", "conflict", "copy", "blank", "misnamed"):
        assert quick[kind] == whole[kind]
    assert {"label", "outlier"} & quick.keys() == set()


@pytest.mark.slow
def test_several_labels_are_checked(shared: Path) -> None:
    found = check(shared / "data/msrc_multilabel/labels.csv", offline=True)
    assert found.data.task == "multilabel"
    assert {"leak", "label", "imbalance"} <= cases(found).keys()


def test_images_in_memory_are_checked() -> None:
    rng = np.random.default_rng(0)
    images = [np.asarray(draw("disc", CLASSES["disc"], rng)) for _ in range(6)]
    data = table.from_arrays([*images, images[0]], [0, 1, 0, 1, 0, 1, 1], ("one", "two"))
    assert cases(check(data, offline=True))["conflict"] == [["image 0", "image 6"]]


# --- the cleaned list -------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_list_leaves_out_what_harms_and_fit_reads_it(report: CheckReport, spoiled: Path, tmp_path: Path) -> None:
    count = write(report, tmp_path / "clean.csv")
    listed = rows(tmp_path / "clean.csv")
    left_out = {"disc/copy.png", "disc/empty.jpg", "disc/cut.jpg", "disc/02.png", "frame/disputed.png", "frame/02.png"}
    names = {Path(row["file"]).relative_to(Path(listed[0]["file"]).parents[2]).as_posix() for row in listed}
    assert names == {name for name in contents(spoiled) if name.removeprefix("train/") not in left_out}
    assert count == len(listed) == 36
    assert {row["split"] for row in listed} == {"train", "test"}
    assert all((tmp_path / row["file"]).is_file() for row in listed)
    data = fit(tmp_path / "clean.csv", strategy=QUICK, offline=True).report["data"]
    assert (data["train"], data["test"], data["leaks"], data["faults"]) == (26, 10, 0, {})


def test_groups_are_listed(photos: Path, tmp_path: Path) -> None:
    with (tmp_path / "labels.csv").open("w", encoding="utf-8") as file:
        file.write("file,label,patient\n")
        for number, path in enumerate(sorted(photos.rglob("*.*"))):
            file.write(f"{path},{path.parent.name},p{number // 4}\n")
    write(check(tmp_path / "labels.csv", offline=True), tmp_path / "clean.csv")
    assert len({row["group"] for row in rows(tmp_path / "clean.csv")}) == 9
    assert "split" not in rows(tmp_path / "clean.csv")[0]


def test_a_name_that_begins_like_a_formula_is_harmless(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "=photos")
    write(check(tmp_path / "=photos", offline=True), tmp_path / "clean.csv")
    assert {row["file"][:9] for row in rows(tmp_path / "clean.csv")} == {"./=photos"}


def test_what_a_table_cannot_hold_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    shutil.move(tmp_path / "photos/disc", tmp_path / "photos/disc, round")
    found = check(tmp_path / "photos", offline=True)
    with pytest.raises(DataError, match="class names no"):
        write(found, tmp_path / "clean.csv")
    assert not (tmp_path / "clean.csv").exists()


def test_only_files_can_be_listed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [np.asarray(draw("disc", CLASSES["disc"], rng)) for _ in range(6)]
    found = check(table.from_arrays(images, [0, 1, 0, 1, 0, 1], ("one", "two")), offline=True)
    with pytest.raises(UsageError, match="this source are none"):
        write(found, tmp_path / "clean.csv")


def test_a_list_of_others_is_never_replaced(report: CheckReport, tmp_path: Path) -> None:
    path = tmp_path / "clean.csv"
    write(report, path)
    with pytest.raises(OutputError, match="Use --force"):
        write(report, path)
    write(report, path, force=True)
    path.write_text("my own table", encoding="utf-8")
    with pytest.raises(OutputError, match="not even --force"):
        write(report, path, force=True)
    with pytest.raises(UsageError, match=r"ends in \.csv"):
        write(report, tmp_path / "clean.txt")


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_prints_what_is_found_and_what_to_do(spoiled: Path, tmp_path: Path) -> None:
    page, fixed = tmp_path / "check.html", tmp_path / "clean.csv"
    done = graft("check", spoiled, "-o", page, "--fix", fixed, "--offline", "-q")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"40 of 42 images of 3 classes in {spoiled}\n")
    assert "error        1 pair of the same content under different labels" in done.stdout
    assert "train/disc/02.png = train/frame/disputed.png: same content" in done.stdout
    assert done.stdout.endswith(f"Next:  graft fit {fixed} -o model/\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    again = graft("check", spoiled, "-o", page, "-q")
    assert (again.exit_code, "Use --force" in again.stderr) == (6, True)


def test_next_is_to_look_then_to_leave_out_then_to_train(spoiled: Path, tmp_path: Path) -> None:
    assert f"Next:  graft check {spoiled} -o check.html" in graft("check", spoiled, "--offline", "-q").stdout
    shown = graft("check", spoiled, "-o", tmp_path / "c.html", "--offline", "-q").stdout
    assert f"Next:  graft check {spoiled} --fix clean.csv" in shown


def test_json_is_what_python_says(spoiled: Path, report: CheckReport) -> None:
    done = graft("check", spoiled, "--offline", "--json", "-q")
    assert json.loads(done.stdout) | {"seconds": 0} == report.as_dict() | {"seconds": 0}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 3, "There is no folder"),
        (["PHOTOS", "-o", "x.csv", "--fix", "x.csv"], 2, "cannot be the same file"),
        (["PHOTOS", "--fix", "list.txt"], 2, "ends in .csv"),
        (["PHOTOS", "-o", "not/there.html"], 6, "There is no folder"),
        (["PHOTOS", "--columns", "file=a"], 2, "--columns names the columns of a table"),
        (["PHOTOS", "--boxes"], 2, "marks no boxes"),
        (["PHOTOS", "--backbone", "resnet51"], 2, "resnet51"),
    ],
)
def test_a_mistake_gets_one_clear_message(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[Any], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = graft("check", *(photos if word == "PHOTOS" else word for word in words), "--offline", "-q")
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""


# --- inside fit -------------------------------------------------------------------------------------------------------


def test_fit_notices_the_same(spoiled: Path, tmp_path: Path) -> None:
    done = graft("fit", spoiled, "-o", tmp_path / "model", "--strategy", QUICK, "--offline", "-q")
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "model/report.json").read_text(encoding="utf-8"))["data"]
    assert data["conflicts"] == ["train/disc/02.png (disc) and train/frame/disputed.png (frame) are the same image"]
    assert (data["disputed"], data["misnamed"], data["leaks"]) == (2, 1, 1)
    assert "careful      train/disc/02.png (disc) and train/frame/disputed.png (frame)" in done.stdout
    assert "look at      1 images are of another format" in done.stdout


def test_what_is_doubtful_stands_together_and_placeholders_are_pointed_out(photos: Path, tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 8)):
        for name in ("disc", "frame", "stripes"):
            (tmp_path / "p" / part / name).mkdir(parents=True)
            for file in sorted((photos / name).iterdir())[first : first + 8]:
                shutil.copy(file, tmp_path / "p" / part / name)
    missing = Image.effect_noise((60, 60), 90).convert("RGB")
    for at in range(3):
        missing.save(tmp_path / "p" / "train" / "disc" / f"missing{at}.png")
    shutil.copy(tmp_path / "p" / "train" / "disc" / "00.png", tmp_path / "p" / "test" / "disc" / "seen.png")
    Image.new("RGB", (50, 50), "white").save(tmp_path / "p" / "train" / "frame" / "white.png")
    done = graft("fit", tmp_path / "p", "-o", tmp_path / "m", "-s", "probe:head=ridge,layers=last", "-q")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    doubts = [at for at, line in enumerate(lines) if line.startswith("  careful")]
    assert doubts == list(range(len(doubts))), "all at the head, side by side"
    flattered = [at for at in doubts if "the score flatters" in lines[at]]
    assert len(flattered) == 2
    assert flattered[1] == flattered[0] + 1
    assert "1 image of a single colour, such as train/frame/white.png: placeholders for missing ones?" in done.stdout
    assert "3 images are the very same, such as train/disc/missing0.png: a placeholder" in done.stdout
    told = {each["kind"]: each["severity"] for each in check(tmp_path / "p", quick=True).as_dict()["findings"]}
    assert (told["placeholder"], told["blank"]) == ("warning", "warning")
