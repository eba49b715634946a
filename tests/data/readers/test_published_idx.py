"""IDX, read back as it was laid out; and files that are not whole."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import formats
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from graft.data.dataset import TEST, TRAIN, UNSPLIT
from graft.data.readers import published
from graft.data.readers.published import read_idx
from graft.data.readers.source import read_source
from graft.errors import DataError


@pytest.fixture
def mnist(photos: Path, tmp_path: Path) -> Path:
    return formats.mnist(tmp_path / "MNIST", photos)


def test_images_come_back_as_grey(mnist: Path, photos: Path) -> None:
    data = read_source(mnist)
    images, labels = formats.squares(photos, 28)
    grey = images.mean(axis=3).astype(np.uint8)
    assert data.classes == ("0", "1", "2")
    assert data.labels.tolist() == labels.tolist()
    assert data.split.tolist() == [TRAIN] * 30 + [TEST] * 6
    for row in range(36):
        assert np.array_equal(data.read(row), np.stack([grey[row]] * 3, axis=2))
    assert data.name(31) == "t10k-images-idx3-ubyte.gz [1]"


def test_unpacked_in_raw_or_called_otherwise_it_is_the_same(mnist: Path, photos: Path, tmp_path: Path) -> None:
    want = read_source(mnist)
    plain = formats.mnist(tmp_path / "plain/raw", photos, packed=False)
    other = tmp_path / "other"
    other.mkdir()
    for file in plain.iterdir():
        shutil.copy(file, other / f"emnist-letters-{file.name}".replace("t10k", "test").replace("s-idx", "s.idx"))
    for path in (plain, plain.parent, other):
        data = read_source(path)
        assert np.array_equal(data.labels, want.labels)
        assert np.array_equal(data.split, want.split)
        assert all(np.array_equal(data.read(row), want.read(row)) for row in range(36))


def test_a_packed_and_an_unpacked_copy_are_read_once(mnist: Path) -> None:
    packed = mnist / "train-images-idx3-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    assert len(read_source(mnist)) == 36


def test_classes_are_the_numbers_that_occur(mnist: Path) -> None:
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(formats.idx(np.full(6, 26, np.uint8))))
    data = read_source(mnist)
    assert data.classes == ("0", "1", "2", "26")
    assert data.labels[30:].tolist() == [3] * 6


def test_training_images_alone_are_no_split(mnist: Path) -> None:
    (mnist / "t10k-images-idx3-ubyte.gz").unlink()
    assert set(read_source(mnist).split) == {UNSPLIT}


def test_several_data_sets_in_one_folder_are_not_mixed(mnist: Path) -> None:
    shutil.copy(mnist / "train-images-idx3-ubyte.gz", mnist / "emnist-train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=r"holds several data sets: .*Put each into a folder of its own"):
        read_source(mnist)


@given(values=arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=6)), cut=st.integers(1, 400))
def test_a_file_is_read_whole_or_not_at_all(tmp_path_factory: pytest.TempPathFactory, values, cut: int) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    raw = formats.idx(values)
    path.write_bytes(raw)
    assert np.array_equal(published._read_array(path, values.ndim), values)
    for wrong in (raw[: max(0, len(raw) - cut)], raw + b"x"):
        path.write_bytes(wrong)
        with pytest.raises(DataError):
            published._read_array(path, values.ndim)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "is no IDX file .* it begins with ''"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 20, "it begins with '89504e47', not with '00000803'"),
        (formats.idx(np.zeros(3, np.uint8)), "begins with '00000801', not with '00000803'"),
        (b"\0\0\x0d\x03" + b"\0\0\0\1" * 3, "begins with '00000d03'"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "says that it holds 4294967295 x 4294967295 x 4294967295 values"),
        (b"\0\0\x08\x03" + b"\0" * 12, "says that it holds 0 x 0 x 0 values"),
        (b"\0\0\x08\x03\0\0\xff\xff\0\0\0\x1c\0\0\0\x1cabc", "holds 3 of 51,379,440 values"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_none_is_named(mnist: Path, raw: bytes, why: str, packed: bool) -> None:
    path = mnist / "train-images-idx3-ubyte.gz"
    path.unlink()
    path = path if packed else path.with_suffix("")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte.* {why}"):
        read_source(mnist)


def test_a_packed_file_cut_anywhere_is_damaged(mnist: Path) -> None:
    path = mnist / "t10k-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    for wrong in (raw[:0], raw[:5], raw[: len(raw) // 2], raw[:-4], b"no archive", raw[:40] + raw[60:]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz"):
            read_source(mnist)


def test_labels_have_to_be_there_and_as_many(mnist: Path) -> None:
    path = mnist / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(formats.idx(np.zeros(29, np.uint8))))
    with pytest.raises(DataError, match=r"has 29 labels, train-images-idx3-ubyte\.gz has 30 images"):
        read_source(mnist)
    path.unlink()
    with pytest.raises(DataError, match=r"no labels beside it: there is no train-labels-idx1-ubyte and no train-label"):
        read_source(mnist)


def test_images_of_two_sizes_are_no_set(mnist: Path) -> None:
    (mnist / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(formats.idx(np.zeros((6, 9, 9), np.uint8))))
    with pytest.raises(DataError, match="images of several sizes"):
        read_source(mnist)
    with pytest.raises(DataError, match="holds no file such as train-images-idx3-ubyte"):
        read_idx(mnist.parent)
