"""What other libraries hold, as the same data set: Hugging Face, torch, numpy and PIL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.data.dataset import TEST, TRAIN, VALID, Dataset, compute_digest
from graft.data.readers.folder import read_folder
from graft.data.readers.source import read_source
from graft.errors import DataError, UsageError


def rows(data: Dataset) -> list[tuple[bytes, str]]:
    names = [data.classes[label] for label in data.labels.tolist()]
    return sorted(zip([compute_digest(data.read(row)) for row in range(len(data))], names, strict=True))


def complaint(source: Any) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        read_source(source)
    return str(caught.value)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf() -> Any:
    return pytest.importorskip("datasets")


def hugging_face(hf: Any, photos: Path, *, inside: bool, every: int = 1) -> Any:
    """The photos as a Dataset, their bytes inside or as paths, with the classes in an order of their own."""
    paths = sorted(photos.rglob("*.*g"))[::every]
    images = [{"bytes": path.read_bytes(), "path": path.name} if inside else str(path) for path in paths]
    names = ["stripes", "frame", "disc"]
    columns = {"image": images, "label": [names.index(path.parent.name) for path in paths]}
    return hf.Dataset.from_dict(
        columns, features=hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=names)})
    )


@pytest.mark.parametrize("inside", [True, False])
def test_a_dataset_is_what_the_folder_is(hf: Any, photos: Path, inside: bool) -> None:
    data = read_source(hugging_face(hf, photos, inside=inside))
    expected = read_folder(photos)
    assert (data.classes, rows(data)) == (expected.classes, rows(expected))
    assert data.columns == "file=image,label=label (guessed: label)"
    assert rows(data.take(np.array([5, 1]))) == sorted(rows(data.take(np.array([1]))) + rows(data.take(np.array([5]))))


def test_a_parquet_of_hugging_face_is_what_the_object_is(hf: Any, photos: Path, tmp_path: Path) -> None:
    made = hugging_face(hf, photos, inside=True)
    made.to_parquet(str(tmp_path / "a.parquet"))
    data, expected = read_source(tmp_path / "a.parquet"), read_source(made)
    assert (data.classes, rows(data)) == (expected.classes, rows(expected))


def test_the_keys_of_a_datasetdict_are_the_split(hf: Any, photos: Path) -> None:
    one = hugging_face(hf, photos, inside=True, every=4)
    data = read_source(hf.DatasetDict({"train": one, "validation": one.select([0, 8]), "test": one.select([0])}))
    assert data.split.tolist() == [TRAIN] * 9 + [VALID] * 2 + [TEST]
    assert data.read(9) == data.read(11) == data.read(0)
    assert data.columns.startswith("file=image,label=label,split=the DatasetDict's keys")


def test_columns_of_a_dataset_can_be_named(hf: Any, photos: Path) -> None:
    one = hugging_face(hf, photos, inside=True, every=4)
    one = one.rename_columns({"label": "kind", "image": "shot"}).add_column("who", list("aabbccdde"))
    one = one.add_column("tags", [["x", "y|z"], ["x"], []] * 3)
    data = read_source(one, columns="label=kind,group=who")
    assert data.groups is not None
    assert (data.counts().tolist(), data.groups.tolist()) == ([3, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3, 4])
    assert read_source(one).task == "multilabel"
    assert read_source(one).classes == ("x", "y|z")
    assert "no column of type Image" in complaint(one.remove_columns(["shot"]))
    assert "streaming" in complaint(one.to_iterable_dataset())


# --- torch ------------------------------------------------------------------------------------------------------------


def test_an_image_folder_of_torchvision_is_the_folder(photos: Path) -> None:
    from torchvision.datasets import ImageFolder

    data, expected = read_source(ImageFolder(str(photos))), read_folder(photos)
    assert (data.classes, rows(data)) == (expected.classes, rows(expected))


def test_an_image_folder_with_a_transform_of_images_gives_what_that_makes(photos: Path) -> None:
    from torchvision.datasets import ImageFolder

    data = read_source(ImageFolder(str(photos), transform=lambda image: image.resize((8, 4))))
    assert data.read(0).shape == (4, 8, 3)  # type: ignore[union-attr]
    message = complaint(ImageFolder(str(photos), transform=lambda image: np.asarray(image, np.float32)))
    assert message.startswith("An image in memory must be uint8")
    assert message.endswith("A dataset of torch is given without its transform: graft has its own.")


def test_fake_data_of_torchvision() -> None:
    from torchvision.datasets import FakeData

    fake = FakeData(size=20, image_size=(3, 8, 8), num_classes=12, random_offset=5)
    data = read_source(fake)
    assert data.classes == tuple(map(str, sorted({int(fake[at][1]) for at in range(20)})))
    for row in (0, 7):
        np.testing.assert_array_equal(data.read(row), np.asarray(fake[row][0]))
        assert data.classes[data.labels[row]] == str(int(fake[row][1]))
    assert data.take(np.array([7, 0])).name(0) == "item 7"


class Map:
    """A map-style dataset that is nobody's child."""

    def __init__(self, items: list[Any], **more: Any) -> None:
        self.items = items
        vars(self).update(more)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


def test_any_map_style_dataset(photos: Path) -> None:
    from torch.utils.data import Subset

    path = sorted(photos.rglob("*.*g"))[0]
    items = [(path, 1), (path.read_bytes(), 0), (np.zeros((3, 4), np.uint8), 1), (Image.new("L", (4, 3), 9), 0)]
    data = read_source(Map(items, classes=["b", "a"]))
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 1, 0, 1])
    assert data.read(0) == data.read(1) == path.read_bytes()
    assert data.read(2).shape == data.read(3).shape == (3, 4, 3)  # type: ignore[union-attr]
    data = read_source(Subset(Map(items), [3, 0]))  # pyright: ignore[reportArgumentType]
    assert (data.classes, data.labels.tolist(), data.read(1)) == (("0", "1"), [0, 1], path.read_bytes())
    assert read_source(Map(items, targets=np.array([7, 7, 8, 9]))).classes == ("7", "8", "9")


def test_what_is_no_source_says_what_is() -> None:
    for odd in (None, 3, {}, {"a": 1}, object()):
        assert complaint(odd) == (
            f"A {type(odd).__name__} is no source of images. It may be a path, a graft.Dataset, a Dataset or "
            f"DatasetDict of Hugging Face, a DataFrame, a map-style dataset of images and labels as torch has them, "
            f"or a pair (images, labels)."
        )
    assert "are no pairs (image, label)" in complaint([1, 2, 3])
    assert complaint([]) == "The dataset is empty."


# --- numpy and PIL ----------------------------------------------------------------------------------------------------


def test_images_and_labels(photos: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    data = read_source((pixels, ["dog", "cat", "dog", "cat"]))
    assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [1, 0, 1, 0])
    np.testing.assert_array_equal(data.read(2), pixels[2])
    assert rows(read_source(([Image.fromarray(each) for each in pixels], ["dog", "cat", "dog", "cat"]))) == rows(data)
    found = read_folder(photos)
    paths = [photos / name for name in found.names()]
    assert rows(read_source((paths, [path.parent.name for path in paths]))) == rows(found)
    assert read_source((pixels, np.eye(4, dtype=int)[:, :2])).task == "multilabel"
    assert complaint((pixels, [1, 2])) == "There are 4 images and 2 labels. Each image needs one."


def test_a_dataset_is_itself_and_columns_are_for_tables(photos: Path) -> None:
    data = read_folder(photos)
    assert read_source(data) is data
    with pytest.raises(UsageError, match="--columns names the columns of a table"):
        read_source(data, columns="label=x")
    with pytest.raises(UsageError, match=f"--columns names the columns of a table, and {photos} is none"):
        read_source(photos, columns="label=x")
