"""CIFAR in all its versions, read back as it was laid out; and pickles that want to run."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest

from graft.data.dataset import TEST, TRAIN, UNSPLIT, Dataset
from graft.data.readers import published
from graft.data.readers.published import read_cifar
from graft.data.readers.source import read_source
from graft.errors import DataError

CLASSES = ("airplane", "cat", "dog")


@pytest.fixture
def ten(photos: Path, tmp_path: Path) -> Path:
    return formats.cifar10(tmp_path / "cifar-10-batches-py", photos)


@pytest.fixture
def hundred(photos: Path, tmp_path: Path) -> Path:
    return formats.cifar100(tmp_path / "cifar-100-python", photos)


def same(one: Dataset, other: Dataset) -> bool:
    columns = ("labels", "split")
    pixels = all(np.array_equal(one.read(row), other.read(row)) for row in range(len(one)))
    return (
        pixels
        and one.classes == other.classes
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)
    )


# --- what is found ----------------------------------------------------------------------------------------------------


def test_the_images_of_cifar_10_come_back(ten: Path, photos: Path) -> None:
    data = read_cifar(ten)
    images, labels = formats.squares(photos, 32)
    assert data.classes == CLASSES
    assert data.labels.tolist() == labels.tolist()
    assert data.split.tolist() == [TRAIN] * 30 + [TEST] * 6
    assert np.array_equal(np.stack([np.asarray(data.read(row)) for row in range(36)]), images)
    assert [data.name(row) for row in (0, 6, 11, 35)] == [
        "data_batch_1 [0]",
        "data_batch_2 [0]",
        "data_batch_2 [5]",
        "test_batch [5]",
    ]
    taken = data.take(np.array([35, 6]))
    assert taken.names() == ["test_batch [5]", "data_batch_2 [0]"]
    assert np.array_equal(taken.read(1), images[6])
    assert taken.take(np.array([1])).names() == ["data_batch_2 [0]"]


def test_cifar_100_has_fine_classes_unless_coarse_ones_are_asked_for(hundred: Path, photos: Path) -> None:
    data, coarse = read_cifar(hundred), read_cifar(hundred, coarse=True)
    labels = formats.squares(photos, 32)[1]
    assert (data.classes, data.labels.tolist()) == (CLASSES, labels.tolist())
    assert (coarse.classes, coarse.labels.tolist()) == (("vehicle", "animal"), (labels // 2).tolist())
    assert data.split.tolist() == [TRAIN] * 30 + [TEST] * 6
    assert data.name(30) == "test [0]"


@pytest.mark.parametrize("make", [formats.cifar10, formats.cifar100])
def test_all_versions_are_the_same(make: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    ten = make is formats.cifar10
    folder = make(tmp_path / ("cifar-10-batches-py" if ten else "cifar-100-python"), photos)
    twin = formats.binary(folder, tmp_path / "b" / ("cifar-10-batches-bin" if ten else "cifar-100-binary"))
    want = read_source(folder)
    packed = formats.archive(folder, tmp_path / "python.tar.gz"), formats.archive(twin, tmp_path / "b/binary.tgz")
    for path in (folder.parent, twin, twin.parent, *packed):
        assert same(read_source(path), want)
    if not ten:
        assert same(read_cifar(twin, coarse=True), read_cifar(folder, coarse=True))


def test_the_archive_is_found_in_its_folder_and_by_its_name(ten: Path, tmp_path: Path) -> None:
    path = formats.archive(ten, tmp_path / "cifar-10-python.tar.gz")
    want = read_source(ten)
    shutil.rmtree(ten)
    assert same(read_source(tmp_path), want)
    assert same(read_source(path), want)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]  # nothing was unpacked


def test_of_several_versions_one_has_to_be_named(ten: Path, hundred: Path) -> None:
    with pytest.raises(DataError, match=r"several versions: .*cifar-10-batches-py, .*cifar-100-python\. Please name"):
        read_source(ten.parent)


def test_train_and_test_folders_are_no_cifar(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "test", "meta"):
        shutil.copytree(photos, tmp_path / part)
    assert read_source(tmp_path / "train").name(0).startswith("disc")


def test_batches_without_the_test_batch_are_no_split(ten: Path) -> None:
    (ten / "test_batch").unlink()
    assert set(read_cifar(ten).split) == {UNSPLIT}


# --- as Python 2 wrote it ---------------------------------------------------------------------------------------------


def python2(labels: list[int], rows: bytes) -> bytes:
    """The operations of data_batch_1 as it is published: Python 2's texts are bytes, the array one long text."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    count = struct.pack("<H", len(labels))
    return b"".join(
        [
            b"\x80\x02}q\x01(" + text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03",
            text(b"labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            text(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85",
            text(b"b") + b"\x87R(K\x01M" + count + b"M\x00\x0c\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R",
            b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(rows) + b"tb",
            b"u.",
        ]
    )


def test_a_batch_as_python_2_wrote_it(ten: Path, photos: Path) -> None:
    images, labels = formats.squares(photos, 32)
    raw = python2(labels[:6].tolist(), formats.planes(images[:6]).tobytes())
    assert pickle.loads(raw, encoding="latin-1")["data"].shape == (6, 3072)  # so numpy itself agrees that it is one
    want = read_cifar(ten)
    (ten / "data_batch_1").write_bytes(raw)
    assert same(read_cifar(ten), want)


@pytest.mark.parametrize("protocol", range(5))
def test_a_batch_that_python_3_wrote_again(ten: Path, protocol: int) -> None:
    want = read_cifar(ten)
    batch = pickle.loads((ten / "data_batch_1").read_bytes())
    (ten / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=protocol))
    assert same(read_cifar(ten), want)


# --- pickles that are none --------------------------------------------------------------------------------------------


class Runs:
    """What os.system is called with where somebody unpickles it."""

    def __init__(self, what: Callable[..., object], *arguments: object) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> Any:
        return self.what, self.arguments


@pytest.mark.fault(32)
@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_nothing_of_a_pickle_is_executed(ten: Path, tmp_path: Path, name: str) -> None:
    trace = tmp_path / "executed"
    command = f"touch {trace}"
    raw = pickle.dumps({"label_names": ["a"], "labels": [0], "data": Runs(os.system, command)}, protocol=2)
    pickle.loads(raw)
    assert trace.exists(), "the pickle does what it should not, where it can"
    trace.unlink()
    (ten / name).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{name} is no pickle of CIFAR: it asks for posix.system, .* was executed"):
        read_cifar(ten)
    with pytest.raises(DataError, match=r"posix\.system"):
        read_source(formats.archive(ten, tmp_path / "cifar-10-python.tar.gz"))
    assert not trace.exists()


@pytest.mark.parametrize("what", [eval, getattr, np.load, np.frombuffer, np.zeros, Path, pickle.loads])
def test_only_arrays_and_plain_values_are_known(ten: Path, what: Callable[..., object]) -> None:
    (ten / "data_batch_2").write_bytes(pickle.dumps(what))
    with pytest.raises(DataError, match="which no file of CIFAR needs; nothing was executed"):
        read_cifar(ten)


DEEP = b"\x80\x02" + b"]" * 100_000
GREEDY = b"\x80\x02Nr\xff\xff\xff\x7f}."  # number 2,147,483,647 of a list of what was seen
LONG = b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc."


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "EOFError"),
        (b"no pickle", "no pickle of CIFAR"),
        (DEEP, "no pickle of CIFAR"),
        (LONG, "no pickle of CIFAR"),
        (GREEDY, "no list of labels"),
        (b"\x80\x02cos\nsystem\n.", "it asks for os.system"),
        (b"\x80\x02c_codecs\nencode\n}X\x01\0\0\0ac_codecs\nencode\ns\x86b.", "no pickle of CIFAR"),
        (pickle.dumps([1]), "it holds no dictionary"),
        (pickle.dumps({}), "no list of labels"),
        (pickle.dumps({"labels": ["a"]}), "no list of labels"),
        (pickle.dumps({"labels": [-1]}), "no list of labels"),
        (pickle.dumps({"labels": [True], "data": np.zeros((1, 3072), np.uint8)}), "no list of labels"),
        (pickle.dumps({"labels": [1], "data": b"x" * 3072}), "not an array of as many images"),
        (pickle.dumps({"labels": [1], "data": np.zeros((1, 3071), np.uint8)}), "1 labels and not an array of as many"),
        (pickle.dumps({"labels": [1], "data": np.zeros((1, 3072))}), "1 labels and not an array of as many"),
        (pickle.dumps({"labels": [1], "data": np.zeros((3072, 1), np.uint8)}, 2), "not an array"),
        (pickle.dumps({"labels": [1, 2], "data": np.zeros((2, 3072), np.uint8, "F")}, 2), "not an array"),
        (pickle.dumps({"labels": [3], "data": np.zeros((1, 3072), np.uint8)}, 2), "labels from 0 to 3, and 3 classes"),
    ],
)
def test_a_batch_that_is_none_is_named(ten: Path, raw: bytes, why: str) -> None:
    (ten / "data_batch_5").write_bytes(raw)
    with pytest.raises(DataError, match=why):
        read_cifar(ten)


def test_a_greedy_pickle_gets_no_memory(ten: Path) -> None:
    """Python's own fast unpickler takes 32 GB for these few bytes."""
    assert published._unpickle(ten, GREEDY) == {}


def test_a_batch_cut_anywhere_is_damaged(ten: Path) -> None:
    raw = (ten / "data_batch_3").read_bytes()
    for length in (1, 50, len(raw) // 2, len(raw) - 1):
        (ten / "data_batch_3").write_bytes(raw[:length])
        with pytest.raises(DataError, match="data_batch_3"):
            read_cifar(ten)


# --- other faults -----------------------------------------------------------------------------------------------------


def test_an_archive_cut_anywhere_is_damaged(ten: Path, tmp_path: Path) -> None:
    path = formats.archive(ten, tmp_path / "cifar-10-python.tar.gz")
    raw = path.read_bytes()
    for length in (0, 5, 100, len(raw) // 2, len(raw) - 20):
        path.write_bytes(raw[:length])
        with pytest.raises(DataError, match="damaged or not complete"):
            read_cifar(path)
    path.write_bytes(raw[: len(raw) // 3] + bytes([raw[len(raw) // 3] ^ 1]) + raw[len(raw) // 3 + 1 :])
    with pytest.raises(DataError, match="damaged or not complete"):
        read_cifar(path)
    path.write_bytes(b"no archive, whatever it is called")
    with pytest.raises(DataError, match="damaged or not complete"):
        read_cifar(path)


def test_an_archive_of_something_else_is_none(photos: Path, tmp_path: Path) -> None:
    path = formats.archive(photos, tmp_path / "photos.tar.gz")
    assert not published.is_cifar(path)
    with pytest.raises(DataError, match="holds no files of CIFAR"):
        read_cifar(path)


def test_a_file_of_gigabytes_is_not_read(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_FILE_BYTES", 20_000)
    for path in (ten, formats.archive(ten, ten.with_name("cifar-10-python.tar.gz"))):
        with pytest.raises(DataError, match="no file of CIFAR has more than 20,000"):
            read_cifar(path)


def test_a_binary_batch_that_is_not_whole(ten: Path, tmp_path: Path) -> None:
    folder = formats.binary(ten, tmp_path / "b/cifar-10-batches-bin")
    raw = (folder / "data_batch_1.bin").read_bytes()
    for wrong in (raw[:-1], b""):
        (folder / "data_batch_1.bin").write_bytes(wrong)
        with pytest.raises(DataError, match=r"data_batch_1.bin is damaged or not complete: [\d,]+ bytes are no multip"):
            read_cifar(folder)


def test_names_of_classes_are_needed(ten: Path, hundred: Path) -> None:
    (ten / "batches.meta").unlink()
    with pytest.raises(DataError, match=r"no file batches.meta or batches.meta.txt"):
        read_cifar(ten)
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": [1, 2]}))
    with pytest.raises(DataError, match=r"no list 'fine_label_names' with names"):
        read_cifar(hundred)


def test_cifar_10_has_no_coarse_classes(ten: Path) -> None:
    with pytest.raises(DataError, match="is CIFAR-10, which has no coarse classes"):
        read_cifar(ten, coarse=True)
    with pytest.raises(DataError, match="holds no files of CIFAR"):
        read_cifar(ten.parent / "nowhere")
