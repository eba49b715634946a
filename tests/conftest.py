"""What every test stands on: types checked at run time, a cache of its own, one thread, and a few images."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; pytest runs two processes, so one core each

from beartype import BeartypeConf
from beartype._util.func.utilfunctest import is_func_nested
from beartype.claw import beartype_packages

# Before the first import of either package: from here on a call that breaks an annotation is an error.
# is_pep484_tower: an int is a float, as pyright has it. None: an annotation that cannot be checked is an error too.
# Measured on 33 modules: 0.2 s for beartype and 0.5 s to read them, once per process; then 0.3 µs a call.
beartype_packages(
    ("graft", "graft_runtime"), conf=BeartypeConf(is_pep484_tower=True, warning_cls_on_decorator_exception=None)
)

import numpy as np
import pytest
from PIL import Image, ImageDraw

SHARED = Path(__file__).parents[2] / "shared"
CLASSES = {"disc": (200, 60, 50), "frame": (60, 170, 80), "stripes": (70, 90, 200)}
PER_CLASS = 12


def pytest_collection_finish() -> None:
    """Take what was imported, a gigabyte with PyTorch, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the libraries that count their objects at the end find them."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the user's cache and the user's weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("GRAFT_WEIGHTS", raising=False)
        yield


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Let go of what inner functions close over: beartype remembers each function that it has seen, networks and all.

    Unmended the two processes of the whole suite grow past 20 GB.
    """
    yield
    for cell in is_func_nested.__closure__ or ():
        if isinstance(cell.cell_contents, dict):
            cell.cell_contents.clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and real weights beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs real images and weights in a folder named 'shared' beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three class folders, each with twelve images of many sizes, PNG and JPEG in turn."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for shape, colour in CLASSES.items():
        (root / shape).mkdir()
        for number in range(PER_CLASS):
            image = draw(shape, colour, rng)
            image.save(root / shape / f"{number:02d}{'.jpg' if number % 2 else '.png'}")
    return root


def draw(shape: str, colour: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """Draw one shape, somewhere, on a background of soft blobs, with noise: no two look like duplicates."""
    width, height = (int(side) for side in rng.integers(40, 121, size=2))
    blobs = Image.fromarray(rng.integers(70, 230, size=(4, 4, 3), dtype=np.uint8))
    image = blobs.resize((width, height), Image.Resampling.BICUBIC)
    size = float(rng.uniform(0.5, 0.8)) * min(width, height)
    left, top = float(rng.uniform(0, width - size)), float(rng.uniform(0, height - size))
    pen, box = ImageDraw.Draw(image), (left, top, left + size, top + size)
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "frame":
        pen.rectangle(box, outline=colour, width=int(size / 5))
    else:
        for x in np.arange(left, left + size, size / 4):
            pen.rectangle((x, top, x + size / 8, top + size), fill=colour)
    noise = rng.normal(0, 12, size=(height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
