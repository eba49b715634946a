"""The table of images: its rows, its names by content, and images in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from graft.data.dataset import (
    DIGEST,
    SPLITS,
    TEST,
    TRAIN,
    UNGROUPED,
    UNLABELLED,
    UNSPLIT,
    VALID,
    Dataset,
    as_rgb,
    compute_digest,
    decode_pixels,
    from_arrays,
    from_paths,
)
from graft.data.images import ImageCrops, ImageFiles
from graft.errors import DataError
from graft_runtime import limits
from graft_runtime.image import ImageError, decode

RAMP = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def six() -> Dataset:
    """Six images of three classes, one unlabelled."""
    paths = ImageFiles.from_names([f"{letter}.jpg" for letter in "abcdef"], "photos")
    labels = np.array([0, 2, 2, UNLABELLED, 0, 2], np.int32)
    split = np.array([TRAIN, TEST, TRAIN, UNSPLIT, VALID, TEST], np.int8)
    groups = np.array([0, 1, 1, UNGROUPED, 2, 2])
    return Dataset(paths, labels, ("ant", "bee", "cow"), split, {"other files": 1}, groups)


def test_the_codes_of_the_split_are_places_in_its_names() -> None:
    assert [SPLITS[code] for code in (UNSPLIT, TRAIN, VALID, TEST)] == ["", "train", "valid", "test"]


def test_counts_follow_the_classes_and_pass_over_the_unlabelled() -> None:
    assert six().counts().tolist() == [2, 0, 3]
    assert six().take(np.zeros(6, bool)).counts().tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [np.array([4, 0, 4]), np.array([True, False, False, False, True, False])])
def test_taken_rows_keep_everything_that_belongs_to_them(rows: Any) -> None:
    table, wanted = six().take(rows), [4, 0, 4] if rows.dtype == int else [0, 4]
    assert table.names() == [six().name(row) for row in wanted]
    assert table.groups is not None
    assert table.groups.tolist() == [2, 0, 2] if rows.dtype == int else [0, 2]
    assert table.labels.tolist() == six().labels[wanted].tolist()
    assert table.split.tolist() == six().split[wanted].tolist()
    assert (table.classes, table.root, table.ignored) == (six().classes, "photos", {"other files": 1})
    assert len(table) == len(wanted)


def test_images_in_memory_can_be_taken_too() -> None:
    table = from_arrays([RAMP, RAMP[:1], RAMP[:, :1]], [0, 1, 0], ("a", "b")).take(np.array([2, 1]))
    assert [table.read(row).shape for row in range(2)] == [(2, 1, 3), (1, 4, 3)]
    assert table.labels.tolist() == [0, 1]


def test_a_part_is_the_rows_of_its_codes() -> None:
    assert six().part(TEST).tolist() == [1, 5]
    assert six().part(TRAIN, VALID).tolist() == [0, 2, 4]


def test_an_image_is_called_by_its_path_or_its_number() -> None:
    assert six().name(3) == "d.jpg"
    assert from_arrays([RAMP, RAMP]).name(1) == "image 1"


def test_a_file_is_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    table = Dataset(ImageFiles.from_names(["a.jpg", "b.jpg"], str(tmp_path)), *_two())
    assert table.read(0) == b"one"
    with pytest.raises(OSError, match=r"b\.jpg"):
        table.read(1)


def _two() -> tuple[Any, tuple[str, ...], Any]:
    return np.zeros(2, np.int32), ("a",), np.zeros(2, np.int8)


def test_files_of_your_own_choosing_need_no_root(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    table = from_paths([tmp_path / "a.jpg", "b.jpg"], [1, 0], ("x", "y"))
    assert (table.read(0), table.name(1), table.labels.tolist()) == (b"one", "b.jpg", [1, 0])
    assert table.classes == ("x", "y")


@pytest.mark.parametrize("table", [from_paths(["a.jpg", "b.jpg"]), from_arrays([RAMP, RAMP])])
def test_without_labels_all_are_unlabelled_and_undecided(table: Dataset) -> None:
    assert table.labels.tolist() == [UNLABELLED] * 2
    assert table.split.tolist() == [UNSPLIT] * 2


# --- boxes in images ------------------------------------------------------------------------------------------------


def test_a_box_is_an_image_of_its_own(tmp_path: Path) -> None:
    """Of the upright image: an EXIF tag turns it first."""
    pixels_there = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels_there).save(tmp_path / "a.png", exif=exif)
    boxes = np.array([[2, 3, 7, 11], [-5, 0, 4, 999], [10, 10, 10, 10]], np.int32)
    crops = ImageCrops(ImageFiles.from_names(["a.png"] * 3, str(tmp_path)), boxes)
    upright = np.rot90(pixels_there, -1)
    np.testing.assert_array_equal(crops.read(0), upright[3:11, 2:7])
    np.testing.assert_array_equal(crops.read(1), upright[:, 0:4])
    assert crops.read(2).shape == (1, 1, 3)
    assert crops.name(0) == "a.png [2,3,7,11]"
    assert compute_digest(crops.read(0)) != compute_digest(crops.read(1))
    np.testing.assert_array_equal(crops.take(np.array([1])).read(0), crops.read(1))


# --- images in memory -----------------------------------------------------------------------------------------------


def test_colour_stays_as_it_is() -> None:
    np.testing.assert_array_equal(as_rgb(RAMP), RAMP)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(RAMP)), RAMP)


@pytest.mark.parametrize("grey", [RAMP[..., 0], RAMP[..., :1], Image.fromarray(RAMP[..., 0])], ids=["2d", "3d", "PIL"])
def test_grey_becomes_three_equal_channels(grey: Any) -> None:
    np.testing.assert_array_equal(as_rgb(grey), np.stack([RAMP[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("P", (2, 2), (9, 8, 7)), (9, 8, 7)),
        (Image.fromarray(np.full((2, 2), 257, np.uint16)), (1, 1, 1)),
    ],
    ids=["RGBA", "1", "P", "I;16"],
)
def test_a_pil_image_of_any_mode_becomes_colour(image: Image.Image, colour: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(as_rgb(image), np.full((2, 2, 3), colour))


def test_pixels_lie_in_order_however_they_were_cut_out() -> None:
    turned = RAMP.transpose(1, 0, 2)[::-1]
    assert as_rgb(turned).flags.c_contiguous
    np.testing.assert_array_equal(as_rgb(turned), turned)


@pytest.mark.parametrize(
    "image",
    [
        RAMP.astype(np.float32) / 255,
        RAMP.astype(np.int64),
        RAMP > 3,
        RAMP[..., :2],
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        None,
    ],
)
def test_what_is_no_image_is_refused_with_its_type_and_shape(image: Any) -> None:
    with pytest.raises(DataError, match=r"must be uint8 \[height, width\]") as caught:
        as_rgb(image)
    assert f"Got {np.asarray(image).dtype} {list(np.shape(image))}" in str(caught.value)


# --- names by content -------------------------------------------------------------------------------------------------


@given(one=st.binary(), other=st.binary())
def test_bytes_have_one_name_if_they_are_the_same(one: bytes, other: bytes) -> None:
    assert len(compute_digest(one)) == DIGEST
    assert compute_digest(one) == compute_digest(bytes(bytearray(one)))
    assert (compute_digest(one) == compute_digest(other)) == (one == other)


@given(image=arrays(np.uint8, (3, 4, 3)), at=st.integers(0, 35))
def test_pixels_have_another_name_if_one_is_another(image: Any, at: int) -> None:
    changed = image.copy()
    changed.ravel()[at] ^= 1
    assert compute_digest(image) == compute_digest(image.copy(order="F"))
    assert compute_digest(image) != compute_digest(changed)


def test_the_same_pixels_in_another_shape_are_another_image() -> None:
    shapes = [(2, 4, 3), (4, 2, 3), (1, 8, 3), (8, 1, 3)]
    names = {compute_digest(RAMP.reshape(shape)) for shape in shapes} | {compute_digest(RAMP.tobytes())}
    assert len(names) == 5


def test_a_name_never_changes_for_stores_are_found_by_it() -> None:
    assert compute_digest(b"a picture").hex() == "6d6f532c386533c4a121faffda65f7e1"


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_pixels_of_a_file_are_those_of_the_decoder(photos: Path) -> None:
    raw = (photos / "disc/01.jpg").read_bytes()
    np.testing.assert_array_equal(decode_pixels(raw, 16), decode(raw, enough=16))
    assert min(decode_pixels(raw, 16).shape[:2]) < min(decode(raw).shape[:2])


def test_pixels_in_memory_are_passed_on() -> None:
    assert decode_pixels(RAMP, 1) is RAMP


def test_what_cannot_be_decoded_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="not an image"):
        decode_pixels(b"no image", 16)


# --- several labels ---------------------------------------------------------------------------------------------------

HOT = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]], np.uint8)


def several() -> Dataset:
    return from_paths(list("abcd"), HOT, ("ant", "bee", "cow"))


def test_a_table_of_0_and_1_is_several_labels_for_each_image() -> None:
    assert (several().task, six().task) == ("multilabel", "multiclass")
    assert several().labels.dtype == np.uint8
    assert len(several()) == 4
    assert several().counts().tolist() == [2, 0, 2]
    assert several().take(np.array([3, 0])).labels.tolist() == [[1, 0, 0], [1, 0, 1]]


def test_targets_are_a_matrix_of_0_and_1_whichever_kind_the_labels_are() -> None:
    assert np.array_equal(several().targets(), HOT.astype(np.float32))
    assert six().targets().tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert six().targets().dtype == several().targets().dtype == np.float32


@pytest.mark.parametrize("labels", [HOT * 2, HOT[:, :2], HOT - 0.5])
def test_what_is_no_table_of_0_and_1_is_refused(labels: Any) -> None:
    with pytest.raises(DataError, match=r"\[images, 3 classes\]. Got \[4, [23]\], from"):
        from_paths(list("abcd"), labels, ("ant", "bee", "cow"))


def test_what_is_no_file_or_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "long.jpg").write_bytes(bytes(11))
    monkeypatch.setattr(limits, "MAX_BYTES", 10)
    data = from_paths([tmp_path / "pipe.jpg", tmp_path / "endless.jpg", tmp_path / "long.jpg"])
    for row, why in enumerate(["not a file", "not a file", "too costly to decode: 0 MB; the limit is 0 MB"]):
        with pytest.raises(ImageError, match=why):
            data.read(row)
