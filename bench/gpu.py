"""All that is to be measured where there is a GPU, in one table and under ten minutes; without one it says so.

bash bench/gpu.sh [--photos FOLDER] [--backbone NAME] [--images 3000]

Throughput of features, of a probe, of a tail and of training everything, against what decoding alone allows; bfloat16
against float32; and whether the GPU's answers are the CPU's. Without --photos the images are drawn: JPEG of 640 x 480.
`--device cpu` goes through the same steps on a CPU, to try the script.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from graft import device
from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.graph import core_count
from graft.data.readers.folder import read_folder
from graft.features.embed import load_each, prepare_image
from graft.jobs.embed import embed
from graft.jobs.fit import fit
from graft.model.classifier import Classifier
from graft.progress import no_progress
from graft.torch import engine
from graft.torch.network import FeaturesModule
from graft.torch.restore import backbone_to_module

MOST = 480  # seconds after which nothing further is begun
CLASSES, SIZE, TURNS, EPOCHS, CHECKED = 10, (640, 480), 5, 3, 256
ROWS = ("images/s", "against decoding")


def main() -> None:
    """Print the table, row by row as it is measured."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default=catalog.DEFAULT)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"])
    options = parser.parse_args()
    name = options.device or found()
    if not name:
        print("no GPU: not measured")
        return
    began = time.monotonic()
    device.use(name)
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos or drawn(Path(folder, "photos"), options.images)
        print(f"{told(name)}; {core_count()} cores; PyTorch {torch.__version__}; {options.backbone}\n")
        measure(name, photos, options.backbone, folder, began)
    print(f"\n{time.monotonic() - began:.0f} s in all")


def found() -> str:
    """The GPU that PyTorch finds; nothing where it finds none."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""


def told(name: str) -> str:
    """The device by its own name."""
    return torch.cuda.get_device_name() if name == "cuda" else name


def measure(name: str, photos: Path, backbone: str, folder: str, began: float) -> None:
    """All rows; those that would begin too late are named and left out."""
    data = read_folder(photos)
    start = backbone_to_module(load_backbone(backbone))
    frozen = FeaturesModule(start.module, start.preprocess, ())
    prepare = partial(prepare_image, start.preprocess)
    images = [each.value for each in load_each(data, prepare, no_progress) if each.value is not None]
    limit = len(data) / seconds(lambda: list(load_each(data, prepare, no_progress)))
    print(f"| what | {' | '.join(ROWS)} |\n|---|---|---|\n| decode + resize alone | {limit:.0f} | 1.00 |", flush=True)

    def row(what: str, work: Callable[[], int], turns: int = 1) -> None:
        """`work` says how many images went through it."""
        if time.monotonic() - began > MOST:
            print(f"| {what} | not measured: no time left | |", flush=True)
            return
        os.environ["GRAFT_CACHE"] = tempfile.mkdtemp(dir=folder)  # an empty cache
        rates = []
        for _ in range(turns):
            spent, count = timed(name, work)
            rates.append(count / spent)
        rate = statistics.median(rates)
        print(f"| {what} | {rate:.0f} | {rate / limit:.2f} |", flush=True)

    some = np.stack(images[: max(256, min(len(images), 1024))])
    run = engine.compile(frozen, start.preprocess.size)
    run(some)  # warm
    row(f"network alone, float32 ({type(run).__name__})", lambda: len(run(some)), TURNS)
    if name != "cpu":
        in_bfloat16(frozen, some, name)
        row("network alone, bfloat16", lambda: len(in_bfloat16(frozen, some, name)), TURNS)
    row("embed, empty cache", lambda: len(embed(photos, backbone=backbone).features))
    made: dict[str, Classifier] = {}
    for strategy in ("probe", "tail", "full"):
        recipe = None if strategy == "probe" else f"epochs={EPOCHS},refit=no"
        what = f"fit {strategy}" + (f", {EPOCHS} epochs" if recipe else "")
        row(what, partial(fitted, photos, backbone, strategy, recipe, made))
    answers(name, frozen, some, made, photos)


def fitted(photos: Path, backbone: str, strategy: str, recipe: str | None, made: dict[str, Classifier]) -> int:
    """Images that a whole fit, its report left out, has seen: those of every epoch."""
    made[strategy] = fit(photos, strategy=strategy, recipe=recipe, backbone=backbone, offline=True)
    report = made[strategy].report
    return sum(report["data"][part] for part in ("train", "test")) * (EPOCHS if recipe else 1)


def in_bfloat16(frozen: FeaturesModule, images: np.ndarray, name: str) -> np.ndarray:
    """Features by torch's automatic mixed precision."""
    done = []
    with torch.inference_mode(), torch.autocast(name, torch.bfloat16):
        for batch in torch.from_numpy(images).split(engine.BATCH_GPU):
            done.append(frozen(engine.move_batch_to_device(batch)).float().cpu())
    return torch.cat(done).numpy()


def answers(name: str, frozen: FeaturesModule, images: np.ndarray, made: dict[str, Classifier], photos: Path) -> None:
    """Features and answers of the GPU beside those of the CPU."""
    some = images[:CHECKED]
    gpu = engine.compile(frozen, images.shape[-1])(some)
    half = in_bfloat16(frozen, some, name) if name != "cpu" else gpu
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:CHECKED]
    there = {strategy: classifier.predict(paths) for strategy, classifier in made.items()}
    device.use("cpu")
    want = engine.compile(frozen, images.shape[-1])(some)
    print("\n| compared with the CPU | largest difference, relative to the largest | answers that change |")
    print("|---|---|---|")
    for what, got in (("features, float32", gpu), ("features, bfloat16", half)):
        print(f"| {what} | {np.abs(got - want).max() / np.abs(want).max():.1e} | |")
    for strategy, classifier in made.items():
        pairs = list(zip(there[strategy], classifier.predict(paths), strict=True))
        gaps = [abs(one.probabilities[key] - two.probabilities[key]) for one, two in pairs for key in two.probabilities]
        changed = sum((one.label, one.unknown) != (two.label, two.unknown) for one, two in pairs)
        print(f"| answers of {strategy} | {max(gaps):.1e} | {changed} of {len(pairs)} |")
    device.use(name)


def timed(name: str, work: Callable[[], int]) -> tuple[float, int]:
    """Seconds until the device has done it, and what came of it."""
    began = time.perf_counter()
    count = work()
    if name == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, count


def seconds(work: Callable[[], object]) -> float:
    """The second time, when files are in memory."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def drawn(folder: Path, count: int) -> Path:
    """Images in class folders, each class of a colour of its own under noise that a JPEG keeps."""
    rng = np.random.default_rng(0)
    for number in range(count):
        kind = number % CLASSES
        place = folder / f"class{kind}"
        place.mkdir(parents=True, exist_ok=True)
        tint = 255 * np.array([kind / CLASSES, (kind * 3 % CLASSES) / CLASSES, 0.5])
        coarse = np.clip(tint + rng.normal(0, 40, (60, 80, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    sys.exit(main())
