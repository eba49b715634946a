"""Small data sets laid out as the published ones are, for the tests of their readers and of the documentation."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[str, tuple[int, int, int, int]]  # class; left, top, right, bottom, the last two outside

NAMES = {"airplane": 0, "cat": 1, "dog": 2}


def mosaic(photos: Path, number: int, classes: Iterable[str]) -> tuple[Image.Image, list[Box]]:
    """One image that shows an image of each class, side by side, and where each is."""
    found = [(name, Image.open(sorted((photos / name).iterdir())[number]).convert("RGB")) for name in classes]
    whole = Image.new("RGB", (sum(one.width for _, one in found) + 4, max(one.height for _, one in found) + 4))
    boxes, left = [], 2
    for name, one in found:
        whole.paste(one, (left, 2))
        boxes.append((name, (left, 2, left + one.width, 2 + one.height)))
        left += one.width
    return whole, boxes


def mosaics(photos: Path, count: int) -> Iterable[tuple[str, Image.Image, list[Box]]]:
    """(name, image, boxes): of `count` images every third shows one class, the others two of the three."""
    classes = sorted(folder.name for folder in photos.iterdir())
    for number in range(count):
        shown = [classes[number % 3], classes[(number + 1) % 3]][: 1 + (number % 3 > 0)]
        yield (f"2008_{number:06d}", *mosaic(photos, number, shown))


def lay(root: Path, photos: Path) -> None:
    """All of them, under the names that the documentation uses."""
    voc(root / "VOCdevkit/VOC2012", photos, 6)
    coco(root / "coco", photos, 6)
    archive(cifar10(root / "unpacked/cifar-10-batches-py", photos), root / "cifar-10-python.tar.gz")
    cifar100(root / "cifar-100-python", photos)
    mnist(root / "mnist", photos)
    imagenet(root / "imagenet", photos)


# --- Pascal VOC -------------------------------------------------------------------------------------------------------


def annotation(file: str, size: tuple[int, int], boxes: Iterable[Box], difficult: bool = False) -> str:
    """One XML as VOC2012 has it; pixels are counted from 1 there, and the last is inside."""
    width, height = size
    objects = "".join(
        f"""
	<object>
		<name>{name}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>{int(difficult)}</difficult>
		<bndbox>
			<xmin>{left + 1}</xmin>
			<ymin>{top + 1}</ymin>
			<xmax>{right}</xmax>
			<ymax>{bottom}</ymax>
		</bndbox>
		<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
	</object>"""
        for name, (left, top, right, bottom) in boxes
    )
    return f"""<annotation>
	<folder>VOC2012</folder>
	<filename>{file}</filename>
	<source><database>The VOC2008 Database</database><image>flickr</image></source>
	<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
	<segmented>0</segmented>{objects}
</annotation>
"""


def voc(root: Path, photos: Path, count: int = 12) -> Path:
    """VOC2012: two thirds for training, the others for validation."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    parts: dict[str, list[str]] = {"train": [], "val": []}
    for number, (stem, image, boxes) in enumerate(mosaics(photos, count)):
        image.save(root / f"JPEGImages/{stem}.jpg", quality=95)
        text = annotation(f"{stem}.jpg", image.size, boxes)
        (root / f"Annotations/{stem}.xml").write_text(text, encoding="utf-8")
        parts["val" if number % 4 == 3 else "train"].append(stem)
    for part, stems in (parts | {"trainval": parts["train"] + parts["val"]}).items():
        (root / f"ImageSets/Main/{part}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return root


# --- COCO -------------------------------------------------------------------------------------------------------------


def coco(root: Path, photos: Path, count: int = 12) -> Path:
    """annotations/instances_train2017.json and val2017 beside the folders of images; ids with gaps, as there."""
    (root / "annotations").mkdir(parents=True)
    categories = {folder.name: 18 + 7 * at for at, folder in enumerate(sorted(photos.iterdir()))}
    parts: dict[str, dict[str, Any]] = {}
    for number, (_, image, boxes) in enumerate(mosaics(photos, count)):
        part = "val2017" if number % 4 == 3 else "train2017"
        file, ident = f"{number:012d}.jpg", 500 - 3 * number
        (root / part).mkdir(exist_ok=True)
        image.save(root / part / file, quality=95)
        lists = parts.setdefault(part, {"info": {"year": 2017}, "licenses": [], "images": [], "annotations": []})
        lists["images"].append({"id": ident, "file_name": file, "width": image.width, "height": image.height})
        lists["annotations"] += [
            {
                "segmentation": [[left, top, right, top, right, bottom]],
                "area": float((right - left) * (bottom - top)),
                "iscrowd": 0,
                "image_id": ident,
                "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                "category_id": categories[name],
                "id": 1000 * number + at,
            }
            for at, (name, (left, top, right, bottom)) in enumerate(boxes)
        ]
    for part, lists in parts.items():
        lists["categories"] = [{"supercategory": "x", "id": ident, "name": name} for name, ident in categories.items()]
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(lists))
    return root


# --- images of one size ---------------------------------------------------------------------------------------------


def squares(photos: Path, side: int, per_class: int = 12) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [n, side, side, 3] and the numbers of their classes, classes in turn."""
    folders = sorted(photos.iterdir())
    pairs = [(at, sorted(folder.iterdir())[:per_class]) for at, folder in enumerate(folders)]
    files = [(at, files[number]) for number in range(len(pairs[0][1])) for at, files in pairs]
    images = [np.asarray(Image.open(file).convert("RGB").resize((side, side))) for _, file in files]
    return np.stack(images), np.array([at for at, _ in files])


def pickled(value: object) -> bytes:
    """As Python 2 wrote it: protocol 2, texts and bytes being one."""
    return pickle.dumps(value, protocol=2)


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [n, 32, 32, 3] as rows of CIFAR: all red, all green, all blue."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def cifar10(root: Path, photos: Path, test: int = 6) -> Path:
    """cifar-10-batches-py: five batches and a test batch."""
    root.mkdir(parents=True)
    images, labels = squares(photos, 32)
    rows = np.split(np.arange(len(labels) - test), np.linspace(0, len(labels) - test, 6).astype(int)[1:-1])
    batches = {f"data_batch_{at}": part for at, part in enumerate(rows, 1)}
    for name, part in (batches | {"test_batch": np.arange(len(labels) - test, len(labels))}).items():
        batch = {"batch_label": name, "labels": labels[part].tolist(), "data": planes(images[part])}
        (root / name).write_bytes(pickled(batch | {"filenames": [f"{row:06d}.png" for row in part]}))
    meta = {"num_cases_per_batch": 10000, "label_names": list(NAMES), "num_vis": 3072}
    (root / "batches.meta").write_bytes(pickled(meta))
    (root / "readme.html").write_text("<html>")
    return root


def cifar100(root: Path, photos: Path, test: int = 6) -> Path:
    """cifar-100-python: train, test and meta, fine and coarse labels."""
    root.mkdir(parents=True)
    images, labels = squares(photos, 32)
    for name, part in (("train", slice(None, -test)), ("test", slice(-test, None))):
        fine, coarse = labels[part].tolist(), (labels[part] // 2).tolist()
        batch = {"fine_labels": fine, "coarse_labels": coarse, "data": planes(images[part])}
        (root / name).write_bytes(pickled(batch))
    meta = {"fine_label_names": list(NAMES), "coarse_label_names": ["vehicle", "animal"]}
    (root / "meta").write_bytes(pickled(meta))
    return root


def binary(folder: Path, root: Path) -> Path:
    """The binary version of a folder that `cifar10` or `cifar100` made."""
    root.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix == ".html":
            continue
        found = pickle.loads(file.read_bytes())
        if "data" in found:
            kinds = [kind for kind in ("coarse_labels", "fine_labels", "labels") if kind in found]
            labels = np.array([found[kind] for kind in kinds], np.uint8).T
            (root / f"{file.name}.bin").write_bytes(np.concatenate([labels, found["data"]], axis=1).tobytes())
        for kind in ("label_names", "fine_label_names", "coarse_label_names"):
            if kind in found:
                name = "batches.meta.txt" if kind == "label_names" else f"{kind}.txt"
                (root / name).write_text("".join(f"{each}\n" for each in found[kind]) + "\n")
    return root


def archive(folder: Path, path: Path) -> Path:
    """A folder as .tar.gz."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path


def idx(values: NDArray[np.uint8]) -> bytes:
    """An array as an IDX file."""
    sizes = b"".join(size.to_bytes(4) for size in values.shape)
    return (0x0800 + values.ndim).to_bytes(4) + sizes + values.tobytes()


def mnist(root: Path, photos: Path, test: int = 6, packed: bool = True) -> Path:
    """train-images-idx3-ubyte.gz and so on."""
    root.mkdir(parents=True)
    images, labels = squares(photos, 28)
    grey = images.mean(axis=3).astype(np.uint8)
    for name, part in (("train", slice(None, -test)), ("t10k", slice(-test, None))):
        for kind, values in (("images-idx3", grey[part]), ("labels-idx1", labels[part].astype(np.uint8))):
            raw = idx(values)
            path = root / f"{name}-{kind}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(raw) if packed else raw)
    return root


# --- ImageNet ---------------------------------------------------------------------------------------------------------

IDS = ("n01440764", "n02012849", "n03126707")  # a fish, and two that are called crane


def imagenet(root: Path, photos: Path, per_class: int = 12) -> Path:
    """train and val with class folders, as the validation part is once it is sorted."""
    for place, (number, folder) in enumerate(zip(IDS, sorted(photos.iterdir()), strict=True)):
        for at, file in enumerate(sorted(folder.iterdir())[:per_class]):
            part, name = (
                ("val", f"ILSVRC2012_val_{100 * place + at:08d}") if at % 4 == 3 else ("train", f"{number}_{at}")
            )
            (root / part / number).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / part / number / f"{name}.JPEG")
    return root
