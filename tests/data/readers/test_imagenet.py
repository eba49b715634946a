"""ImageNet's folders have names that people know, and those of two classes are never the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import formats
import numpy as np
import pytest

from graft.data.dataset import TRAIN, VALID
from graft.data.readers import published
from graft.data.readers.folder import read_folder
from graft.data.readers.published import read_imagenet
from graft.data.readers.source import read_source
from graft.errors import DataError
from graft.torch import direct

CLASSES = ("tench", "crane (n02012849)", "crane (n03126707)")


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    return formats.imagenet(tmp_path / "imagenet", photos)


def test_ids_become_names_and_all_else_is_as_in_the_folder(folder: Path) -> None:
    data, plain = read_source(folder), read_folder(folder)
    assert data.classes == CLASSES
    assert plain.classes == formats.IDS
    assert np.array_equal(data.labels, plain.labels)
    assert (data.names(), data.split.tolist()) == (plain.names(), plain.split.tolist())
    assert data.split.tolist() == [TRAIN] * 27 + [VALID] * 9
    assert data.names()[-1] == "val/n03126707/ILSVRC2012_val_00000211.JPEG"


def test_class_folders_alone_and_the_folders_around_will_do(folder: Path, tmp_path: Path) -> None:
    assert read_source(folder / "train").classes == CLASSES
    deep = tmp_path / "kaggle/ILSVRC/Data/CLS-LOC"
    deep.parent.mkdir(parents=True)
    shutil.copytree(folder, deep)
    for path in (deep, tmp_path / "kaggle/ILSVRC", tmp_path / "kaggle"):
        data = read_source(path)
        assert (data.classes, data.root, len(data)) == (CLASSES, str(deep), 36)


def test_images_of_the_validation_part_that_are_not_sorted_are_left_out(folder: Path) -> None:
    for path in (folder / "val").glob("*/*"):
        shutil.move(path, folder / "val" / path.name)
    for path in (folder / "val").glob("n*"):
        path.rmdir()
    data = read_source(folder)
    assert (data.classes, len(data)) == (CLASSES, 27)
    assert data.ignored == {"images outside class folders": 9}


def test_other_names_make_a_plain_folder(folder: Path) -> None:
    (folder / "train/n02012849").rename(folder / "train/bird")
    (folder / "val/n02012849").rename(folder / "val/bird")
    assert read_source(folder).classes == ("bird", "n01440764", "n03126707")


def test_an_id_that_nobody_knows_stays_one(folder: Path) -> None:
    for part in ("train", "val"):
        (folder / part / "n02012849").rename(folder / part / "n99999999")
    assert read_source(folder).classes == ("tench", "crane (n03126707)", "n99999999")


def test_classes_that_are_given_are_matched_by_name_or_id(folder: Path) -> None:
    known = ("goldfish", *CLASSES[::-1])
    data = read_source(folder / "val", known)
    assert data.classes == known
    assert [known[label] for label in data.labels] == [name for name in CLASSES for _ in range(3)]
    by_id = read_source(folder / "val", formats.IDS[::-1])
    assert by_id.classes == formats.IDS[::-1]
    assert by_id.labels.tolist() == [2] * 3 + [1] * 3 + [0] * 3
    assert read_source(folder / "val", CLASSES[:2]).classes == CLASSES
    with pytest.raises(DataError, match="no folders that are called by WordNet ids"):
        read_imagenet(folder.parent)


def test_names_are_those_of_the_pretrained_networks_and_no_two_are_the_same() -> None:
    names = published._wordnet_names()
    assert len(set(names.values())) == len(names) > 21_800
    ids = [wordnet for wordnet, _ in direct._synonyms(1000)]
    assert tuple(names[each] for each in ids) == direct.list_class_names(1000)


def test_a_plain_folder_is_read_without_timm(photos: Path) -> None:
    code = (
        "import sys; from graft.data.readers.source import read_source; "
        f"print(len(read_source({str(photos)!r})), *({{'timm', 'torch'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["36"]
