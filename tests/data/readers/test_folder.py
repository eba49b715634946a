"""Folders of every making, read the same whatever the machine lists first."""

from __future__ import annotations

import os
import random
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.readers.folder import read_folder
from graft.data.readers.source import read_source
from graft.errors import DataError, UsageError

OUTSIDE, OTHER, HIDDEN = "images outside class folders", "other files", "hidden files"
LINKS, EMPTY, UNREADABLE = "folders seen before (links)", "folders without images", "unreadable folders"


def lay(root: Path, *names: str) -> Path:
    """Files of these names below root; a name that ends in a slash is an empty folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(b"bytes that a reader of folders has no need to open")
    return root


def table(dataset: Dataset) -> dict[str, str]:
    """Path -> name of the class."""
    paths = [Path(path).as_posix() for path in dataset.names()]
    assert len(set(paths)) == len(paths)
    return {path: dataset.classes[label] for path, label in zip(paths, dataset.labels, strict=True)}


def complaint(root: Path, **options: Any) -> str:
    """Why this folder is not read."""
    with pytest.raises(DataError) as caught:
        read_folder(root, **options)
    return str(caught.value)


# --- what is found ----------------------------------------------------------------------------------------------------


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "cat/1.jpg", "cat/2.PNG", "dog/1.webp"))
    assert table(found) == {"cat/1.jpg": "cat", "cat/2.PNG": "cat", "dog/1.webp": "dog"}
    assert (found.classes, found.root, found.ignored) == (("cat", "dog"), str(tmp_path), {})
    assert set(found.split) == {UNSPLIT}
    assert found.read(0) == (tmp_path / "cat/1.jpg").read_bytes()


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    assert table(read_folder(str(lay(tmp_path, "cat/1.jpg", "dog/1.jpg")))) == table(read_folder(tmp_path))


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [("train", "val", "test"), ("Training", "Validation", "Testing"), ("train", "valid", "TEST")],
)
def test_ready_made_parts_are_kept(tmp_path: Path, train: str, valid: str, test: str) -> None:
    lay(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{valid}/dog/1.jpg", f"{test}/cat/deep/1.jpg")
    found = read_folder(tmp_path)
    assert found.classes == ("cat", "dog")
    parts = {Path(path).as_posix(): part for path, part in zip(found.names(), found.split, strict=True)}
    assert parts == {
        f"{train}/cat/1.jpg": TRAIN,
        f"{train}/dog/1.jpg": TRAIN,
        f"{valid}/dog/1.jpg": VALID,
        f"{test}/cat/deep/1.jpg": TEST,
    }
    assert table(found)[f"{test}/cat/deep/1.jpg"] == "cat"


def test_a_folder_beside_train_and_test_is_left_out_and_counted(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/cat/2.jpg", "extra/cat/3.jpg"))
    assert sorted(table(found).values()) == ["cat", "cat", "dog"]
    assert found.ignored == {"folders beside train and test": 1}


def test_images_of_kinds_that_may_not_be_decoded_are_read_all_the_same_to_be_named_as_faults(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.HEIC", "dog/3.NEF", "dog/notes.txt"))
    assert (sorted(table(found)), found.ignored) == (
        ["cat/1.jpg", "dog/1.jpg", "dog/2.HEIC", "dog/3.NEF"],
        {OTHER: 1},
    )


LITTER = ("@eaDir", "#recycle", "@Recycle", ".@__thumb", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def test_what_network_disks_and_bins_leave_in_every_folder_is_no_class_and_no_image(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    lay(tmp_path, *(f"{name}/a.jpg" for name in LITTER), *(f"cat/{name}/1.jpg/THUMB.jpg" for name in LITTER))
    found = read_folder(tmp_path)
    assert (found.classes, len(found), found.ignored) == (("cat", "dog"), 2, {HIDDEN: 2 * len(LITTER)})


@pytest.mark.parametrize("names", [("train", "bus"), ("test", "val")])
def test_other_folders_beside_them_make_parts_into_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    found = read_folder(lay(tmp_path, *(f"{name}/cat/1.jpg" for name in names)))
    assert (found.classes, set(found.split)) == (tuple(sorted(names)), {UNSPLIT})


@pytest.mark.fault(24)
def test_two_comes_before_ten(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "class 10/1.jpg", "Class 2/1.jpg", "class 1/1.jpg", "apple/1.jpg"))
    assert found.classes == ("apple", "class 1", "Class 2", "class 10")


def test_names_of_digits_and_letters_sort_together(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "10/1.jpg", "9/1.jpg", "a/1.jpg", "09/1.jpg", "²/1.jpg"))
    assert found.classes == ("09", "9", "10", "a", "²")


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    lay(tmp_path, "cat/black/old/1.jpg", "cat/black/2.jpg", "cat/3.jpg", "dog/train/1.jpg")
    assert table(read_folder(tmp_path)) == {
        "cat/3.jpg": "cat",
        "cat/black/2.jpg": "cat",
        "cat/black/old/1.jpg": "cat",
        "dog/train/1.jpg": "dog",
    }


NAMES = ["two words", "😀", "蛋糕", "--help", "-", "Ünï", "a'b\"c", "100%", "{x}"]


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", NAMES)
def test_a_class_may_have_any_name(tmp_path: Path, name: str) -> None:
    found = read_folder(lay(tmp_path, f"{name}/{name}.jpg", "other/1.jpg"))
    assert table(found) == {f"{name}/{name}.jpg": name, "other/1.jpg": "other"}
    assert found.read(sorted(table(found)).index(f"{name}/{name}.jpg")).startswith(b"bytes")


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "x.jpg/1.jpg", "cat/y.png/2.jpg", "cat/z.png/"))
    assert table(found) == {"cat/y.png/2.jpg": "cat", "x.jpg/1.jpg": "x.jpg"}


# --- what is left out, and counted ------------------------------------------------------------------------------------


@pytest.mark.fault(20)
def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    lay(tmp_path, "cat/.DS_Store", "cat/._1.jpg", "dog/Thumbs.db", "desktop.ini", ".git/1.jpg", "__MACOSX/cat/1.jpg")
    lay(tmp_path, "labels.csv", "cat/notes.txt", "cat/noextension", "dog/jpg", "0.jpg", "bird/", "fish/readme.md")
    found = read_folder(tmp_path)
    assert table(found) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    assert found.ignored == {HIDDEN: 6, OTHER: 5, OUTSIDE: 1, f"{EMPTY} (bird, fish)": 2}


def test_names_that_are_not_unicode_are_left_out_and_counted(tmp_path: Path) -> None:
    latin = os.fsdecode(b"\xe9")
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg", f"cat/{latin}.jpg", f"dog/{latin}/1.jpg", f"{latin}.jpg")
    found = read_folder(tmp_path)
    assert table(found) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    assert found.ignored == {"names that are not Unicode": 2, OUTSIDE: 1}


def test_images_beside_the_classes_of_a_part_are_counted(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/0.jpg", "test/0.jpg", "0.jpg"))
    assert (len(found), found.ignored) == (2, {OUTSIDE: 3})


@pytest.mark.fault(29)
@pytest.mark.timeout(30)  # a loop is the fault, so it must not take the five minutes that others may
def test_links_cannot_loop(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "cat/here").symlink_to(".", target_is_directory=True)
    (tmp_path / "dog/itself").symlink_to("itself")
    found = read_folder(tmp_path)
    assert table(found) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    assert found.ignored == {LINKS: 2, OTHER: 1}


@pytest.mark.fault(29)
def test_a_folder_that_is_met_twice_is_read_once(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "zebra").symlink_to(tmp_path / "cat", target_is_directory=True)
    found = read_folder(tmp_path)
    assert (found.classes, table(found)) == (("cat", "dog"), {"cat/1.jpg": "cat", "dog/1.jpg": "dog"})
    assert found.ignored[LINKS] == 1


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    lay(tmp_path, "set/dog/1.jpg", "elsewhere/1.jpg")
    (tmp_path / "set/cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert table(read_folder(tmp_path / "set")) == {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}


@pytest.mark.fault(29)
def test_a_dangling_link_is_an_image_only_by_its_name(tmp_path: Path) -> None:
    """One that is named like an image stays in the table, and is found damaged when it is read."""
    lay(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "bird").symlink_to(tmp_path / "nowhere")
    found = read_folder(tmp_path)
    assert table(found) == {"cat/1.jpg": "cat", "cat/gone.jpg": "cat", "dog/1.jpg": "dog"}
    assert found.ignored == {OTHER: 2}
    with pytest.raises(FileNotFoundError):
        found.read(1)


@pytest.mark.fault(6)
@pytest.mark.parametrize("closed", ["cat", "cat/deep"])
def test_an_unreadable_folder_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    lay(tmp_path, "cat/deep/1.jpg", "dog/1.jpg", "bird/1.jpg")
    scan = os.scandir

    def scandir(folder: Path) -> Any:
        if Path(folder) == tmp_path / closed:
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = read_folder(tmp_path)
    assert (found.classes, found.ignored) == (("bird", "dog"), {UNREADABLE: 1, f"{EMPTY} (cat)": 1})


# --- the same everywhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_listing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    lay(tmp_path, *(f"{name}/{sub}{number}.jpg" for name in "abc" for sub in ("", "x/", "y/z/") for number in range(4)))
    (tmp_path / "b/link").symlink_to(tmp_path / "a/x", target_is_directory=True)
    (tmp_path / "c/link").symlink_to(tmp_path / "b/y", target_is_directory=True)
    before, scan, dice = read_folder(tmp_path), os.scandir, random.Random(seed)

    def scandir(folder: Path) -> list[os.DirEntry[str]]:
        entries = sorted(scan(folder), key=lambda entry: entry.name)
        return dice.sample(entries, len(entries))

    monkeypatch.setattr(os, "scandir", scandir)
    after = read_folder(tmp_path)
    assert (after.names(), after.ignored) == (before.names(), before.ignored)
    np.testing.assert_array_equal(after.labels, before.labels)
    assert after.names() == sorted(after.names())


@pytest.mark.fault(23)
def test_accents_stored_in_two_ways_are_one_class(tmp_path: Path) -> None:
    """What a Mac unpacked and what a PC packed: the test part was made on another machine."""
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    lay(tmp_path, f"train/{composed}/1.jpg", "train/bar/1.jpg", f"test/{apart}/2.jpg")
    found = read_folder(tmp_path)
    assert found.classes == ("bar", composed)
    assert found.counts().tolist() == [1, 2]
    assert all(found.read(row).startswith(b"bytes") for row in range(3))  # the path stays as the disk has it


@pytest.mark.fault(23)
def test_two_folders_of_one_name_are_an_error(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (lay(tmp_path, f"{composed}/1.jpg", "bar/1.jpg") / apart).mkdir(exist_ok=True)
    if len(os.listdir(tmp_path)) == 2:
        pytest.skip("this disk has the two names for one")
    assert (
        complaint(tmp_path)
        == f"Two folders are both called {composed!r} (accents stored in two ways). Please merge them."
    )


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", ["a\nb", "tab\t", "bell\a", os.fsdecode(b"latin-\xe9")])
def test_a_name_that_cannot_be_printed_is_an_error(tmp_path: Path, name: str) -> None:
    lay(tmp_path, f"{name}/1.jpg", "dog/1.jpg")
    assert complaint(tmp_path) == (
        f"The folder name {name!r} has control characters or is not Unicode. Please rename it."
    )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "photos") == f"There is no folder {tmp_path / 'photos'}."


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    lay(tmp_path, "x.jpg")
    assert complaint(tmp_path / "x.jpg").startswith(f"{tmp_path / 'x.jpg'} is a file. graft reads a folder ")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert complaint(tmp_path) == f"{tmp_path} holds no images in class folders."


def test_what_was_left_out_is_counted_in_the_error(tmp_path: Path) -> None:
    lay(tmp_path, "cat/", "dog/readme.txt", "bird/")
    message = complaint(tmp_path)
    assert message.startswith(f"{tmp_path} holds no images in class folders. Left out: ")
    assert sorted(re.findall(r"\d+|folders without images|other files", re.split("Left out|It holds", message)[1])) == [
        *("1", "3"),
        *("folders without images", "other files"),
    ]


def test_images_in_no_folder_get_advice(tmp_path: Path) -> None:
    lay(tmp_path, "1.jpg", "2.jpg")
    message = complaint(tmp_path)
    assert OUTSIDE in message
    assert "Sort them into one folder for each class." in message


@pytest.mark.fault(22)
def test_one_class_is_too_few(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/")
    assert complaint(tmp_path).startswith(
        f"{tmp_path} has images of one class only ('cat'); a classifier needs at least"
    )


# --- the classes of a trained classifier ------------------------------------------------------------------------------


def test_folders_are_matched_to_known_classes_by_name(tmp_path: Path) -> None:
    found = read_folder(lay(tmp_path, "cat/1.jpg", "dog/1.jpg"), classes=("dog", "bird", "cat"))
    assert (found.classes, found.labels.tolist()) == (("dog", "bird", "cat"), [2, 0])


def test_one_known_class_is_enough(tmp_path: Path) -> None:
    assert table(read_folder(lay(tmp_path, "cat/1.jpg"), classes=("dog", "cat"))) == {"cat/1.jpg": "cat"}


def test_a_folder_that_is_spelt_in_another_way_is_an_error_that_names_it(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "Dog/1.jpg")
    assert complaint(tmp_path, classes=("cat", "dog")) == (
        f"{tmp_path} spells a class in another way than the classifier: 'Dog' (there: 'dog'). "
        "Rename what is meant to be the same."
    )


def test_a_long_list_of_classes_is_cut(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg")
    known = tuple(str(number) for number in range(10))
    assert complaint(tmp_path, classes=known).endswith("'0', '1', '2', '3', '4', '5', '6', '7' and 2 more.")


def test_no_images_are_an_error_with_known_classes_too(tmp_path: Path) -> None:
    assert complaint(tmp_path, classes=("cat", "dog")) == f"{tmp_path} holds no images in class folders."


# --- folders inside class folders -------------------------------------------------------------------------------------

DOMAINS = ("photo/dog/1.jpg", "photo/cat/2.jpg", "sketch/dog/3.jpg", "sketch/Cat/deep/4.jpg")


def test_folders_of_the_same_names_below_every_class_are_refused_with_both_readings(tmp_path: Path) -> None:
    assert complaint(lay(tmp_path, *DOMAINS)) == (
        f"{tmp_path} has folders of the same names inside each of its folders, so it can be read in two ways: "
        f"2 classes photo, sketch, with --columns label=outer; or 3 classes Cat, cat, dog, with --columns label=inner. "
        f"In Python columns='label=inner'. Or name one of the folders, as in {tmp_path}/photo."
    )


def test_each_reading_can_be_had(tmp_path: Path) -> None:
    lay(tmp_path, *(name.lower() for name in DOMAINS))
    outer, inner = (read_source(tmp_path, columns=f"label={level}") for level in ("outer", "inner"))
    assert (outer.classes, outer.counts().tolist(), outer.columns) == (("photo", "sketch"), [2, 2], "label=outer")
    assert (inner.classes, inner.counts().tolist(), inner.columns) == (("cat", "dog"), [2, 2], "label=inner")
    assert table(inner)["sketch/cat/deep/4.jpg"] == "cat"
    assert read_source(tmp_path, ("sketch", "photo")).labels.tolist() == [1, 1, 0, 0]  # as a classifier knows them
    assert read_source(tmp_path, ("dog", "cat")).labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(DataError, match="can be read in two ways"):
        read_source(tmp_path, columns="label=dog")
    with pytest.raises(UsageError, match="names the columns of a table"):
        read_source(tmp_path / "photo", columns="label=dog")


def test_the_same_in_an_archive_and_below_train_and_test(tmp_path: Path) -> None:
    files = [f"{part}/{name.lower()}" for part in ("train", "test") for name in DOMAINS]
    lay(tmp_path / "set", *files)
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    for source in (tmp_path / "set", tmp_path / "set.zip"):
        with pytest.raises(DataError, match="can be read in two ways"):
            read_source(source)
        data = read_source(source, columns="label=inner")
        assert (data.classes, data.counts().tolist(), len(data.part(TEST))) == (("cat", "dog"), [4, 4], 4)


@pytest.mark.parametrize(
    "names",
    [
        ("cat/a/1.jpg", "dog/b/1.jpg", "cat/c/1.jpg"),  # other names
        ("cat/images/1.jpg", "dog/images/1.jpg"),  # a single name
        ("cat/left/1.jpg", "cat/right/1.jpg", "cat/0.jpg", "dog/left/1.jpg", "dog/right/1.jpg"),  # beside images
        ("cat/left/1.jpg", "cat/right/1.jpg", "dog/left/1.jpg", "dog/right/1.jpg", "eel/1.jpg"),  # not in all of them
    ],
)
def test_other_folders_inside_class_folders_belong_to_their_class(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert table(read_folder(lay(tmp_path, *names))) == {name: name.split("/")[0] for name in sorted(names)}


def test_an_image_outside_the_inner_folders_has_no_inner_class(tmp_path: Path) -> None:
    lay(tmp_path, "photo/dog/1.jpg", "photo/cat/2.jpg", "sketch/3.jpg")
    with pytest.raises(DataError, match=r"sketch/3\.jpg in .* lies in no inner folder"):
        read_source(tmp_path, columns="label=inner")


def test_train_and_test_folders_in_each_class_folder_are_its_parts(tmp_path: Path) -> None:
    names = [f"{kind}/{part}/{kind}.jpg" for kind in ("cat", "dog") for part in ("test", "Train")]
    data = read_folder(lay(tmp_path, *names))
    assert (data.classes, data.split.tolist()) == (("cat", "dog"), [TRAIN, TEST, TRAIN, TEST])
    lay(tmp_path, "eel/1.jpg")  # not in every one: then they are folders as any
    assert set(read_folder(tmp_path).split) == {UNSPLIT}
