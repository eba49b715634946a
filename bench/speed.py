"""How fast images become features, against its parts and against plain PyTorch; ratios within one run.

python bench/speed.py ../shared/data/flowers5 [--backbone NAME] [--rounds 5]
"""

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.features import Features as Looking
from graft.backbones.features import build_probe_features
from graft.data.dataset import Dataset
from graft.data.readers.folder import read_folder
from graft.features.embed import embed, load_each, prepare_image
from graft.progress import no_progress
from graft.torch import engine
from graft.torch.network import FeaturesModule
from graft.torch.restore import backbone_to_module

MANY, FEW = 1500, 256  # images for the fast ones, and for plain PyTorch


def main() -> None:
    """Print one table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", default=catalog.DEFAULT)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    start = backbone_to_module(load_backbone(options.backbone))
    frozen = FeaturesModule(start.module, start.preprocess, ())
    data = read_folder(options.photos)
    data = data.take(np.arange(min(MANY, len(data))))
    prepare = partial(prepare_image, start.preprocess)
    images = np.stack([image.value for image in load_each(data, prepare, no_progress) if image.value is not None])
    pretrained = load_backbone(options.backbone)
    fast = Looking(pretrained.graph, pretrained.preprocess).compile_features()
    few = images[:FEW]
    rivals = {
        "decode + resize alone": (lambda: list(load_each(data, prepare, no_progress)), len(data)),
        f"network alone ({type(fast).__name__})": (lambda: fast(images), len(images)),
        "end to end: embed, empty cache": (
            lambda: fresh(build_probe_features(load_backbone(options.backbone)), data),
            len(data),
        ),
        "PyTorch eager, channels first": (eager(frozen, few, torch.contiguous_format), FEW),
        "PyTorch eager, channels last": (eager(frozen, few, torch.channels_last), FEW),
        **compiled(frozen, few),
        **openvino(frozen, few),
    }
    rates = measured(rivals, options.rounds)
    report(rates, difference(fast, frozen, images[:64]))


def fresh(frozen: Looking, data: Dataset) -> None:
    """Embed with nothing cached."""
    with tempfile.TemporaryDirectory() as cache:
        embed(frozen, data, cache=Path(cache))


def eager(frozen: FeaturesModule, images: NDArray[np.uint8], layout: torch.memory_format) -> Callable[[], object]:
    """Plain PyTorch in batches of 32."""

    def run() -> None:
        module = frozen.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        with torch.inference_mode():
            for batch in torch.from_numpy(images).split(32):
                module(batch.contiguous(memory_format=layout))

    return run


def compiled(frozen: FeaturesModule, images: NDArray[np.uint8]) -> dict[str, tuple[Callable[[], object], int]]:
    """torch.compile in batches of 32, where there is the C++ compiler that it needs; compiling is not counted."""
    if not shutil.which("g++"):
        return {}
    fast = torch.compile(frozen)
    batches = torch.from_numpy(images).split(32)

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                fast(batch)

    return {"PyTorch compiled, channels last": (run, FEW)}


def openvino(frozen: FeaturesModule, images: NDArray[np.uint8]) -> dict[str, tuple[Callable[[], object], int]]:
    """OpenVINO on the same batches as ours, where it is installed."""
    try:
        import openvino
    except ImportError:
        return {}
    batch = engine.BATCH_CPU
    example = torch.from_numpy(images[:batch])
    model = openvino.compile_model(
        openvino.convert_model(frozen, example_input=example), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return {"OpenVINO": (lambda: [model(images[at : at + batch]) for at in range(0, FEW, batch)], FEW)}


def measured(rivals: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of each rival in each round; the rivals take turns, so that a slow minute hits all."""
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds + 1):
        for name, (run, count) in rivals.items():
            start = time.perf_counter()
            run()
            rates[name].append(count / (time.perf_counter() - start))
    return {name: each[1:] for name, each in rates.items()}  # the first round warms up


def difference(
    fast: Callable[[NDArray[np.uint8]], NDArray[np.float32]], frozen: FeaturesModule, images: NDArray[np.uint8]
) -> float:
    """The largest difference of a feature to plain PyTorch."""
    with torch.inference_mode():
        return float(np.abs(fast(images) - frozen(torch.from_numpy(images)).numpy()).max())


def report(rates: dict[str, list[float]], gap: float) -> None:
    """Medians, and the ratios that matter, each from the same round."""
    print("| what | images/s: median | lowest | highest |\n|---|---|---|---|")
    for name, each in rates.items():
        print(f"| {name} | {statistics.median(each):.1f} | {min(each):.1f} | {max(each):.1f} |")
    rounds = list(zip(*list(rates.values())[:4], strict=True))
    ratios = {
        "end to end / slower part alone": [whole / min(decode, net) for decode, net, whole, _ in rounds],
        "end to end / limit of parts that share the cores": [
            whole * (1 / decode + 1 / net) for decode, net, whole, _ in rounds
        ],
        "network / eager channels first": [net / plain for _, net, _, plain in rounds],
    }
    print()
    for name, each in ratios.items():
        print(f"{name}: {statistics.median(each):.2f}")
    print(f"largest difference of a feature to eager: {gap:.1e}")


if __name__ == "__main__":
    main()
