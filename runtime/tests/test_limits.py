"""Files that would cost far more than their size tells are refused at once; the costliest that pass stay in bounds."""

from __future__ import annotations

import csv
import importlib.util
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graft_runtime import formats, image, limits
from graft_runtime.image import ImageError, decode

MOST_SECONDS, MOST_BYTES = 4.0, 10**9  # of a processor, for one image: 3 s on a quiet core
resource = pytest.importorskip("resource", reason="only Unix tells what a process took")


def _hostile() -> Any:
    spec = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = _hostile()
BY_PILLOW = {  # what is not costly: Pillow has a limit of its own, or stops in time
    "wide baseline": "too large",
    "wide frame": "too large",
    "text bombs": "damaged",
    "profile bomb": "damaged",
    "data bomb": (64, 64, 3),
    "exif bomb": (8, 8, 3),
}
CHILD = """
import os, resource, sys, warnings
from pathlib import Path
from graft_runtime.image import ImageError, decode
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    if not os.fork():  # the parent stays small, so the peak is that of one image
        try:
            decode(Path(name).read_bytes())
        except ImageError:
            pass
        os._exit(0)
    _, status, usage = os.wait4(-1, 0)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(status, usage.ru_utime + usage.ru_stime, peak, Path(name).name, sep="\\t", flush=True)
"""


def costly(paths: list[Path]) -> list[str]:
    """What took too much, or ended the process."""
    done = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == len(paths)
    return [
        f"{name}: status {status}, {float(seconds):.1f} s, {int(peak) / 1e6:.0f} MB"
        for status, seconds, peak, name in rows
        if status != "0" or float(seconds) > MOST_SECONDS or int(peak) > MOST_BYTES
    ]


@pytest.mark.fault(17)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", hostile.CASES)
def test_a_hostile_file_is_refused_at_once(name: str) -> None:
    data = hostile.CASES[name]()
    start = time.thread_time()
    try:
        said: object = decode(data).shape
    except ImageError as error:
        said = error.reason
    assert (said, time.thread_time() - start < 2) == (BY_PILLOW.get(name, "too costly to decode"), True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*hostile.BELOW, *hostile.LARGE])
def test_the_costliest_file_that_passes_is_bounded(name: str, tmp_path: Path) -> None:
    path = tmp_path / name.replace(" ", "_")
    path.write_bytes((hostile.BELOW | hostile.LARGE)[name]())
    assert not limits.find_excess(path.read_bytes(), image.MAX_PIXELS)
    assert costly([path]) == []


@pytest.mark.slow
def test_every_messy_image_is_bounded(shared: Path) -> None:
    with (shared / "data/messy/MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        paths = [shared / "data/messy" / row["file"] for row in csv.DictReader(file)]
    assert (len(paths) > 200, costly(paths)) == (True, [])


def test_no_ordinary_photo_is_refused(shared: Path) -> None:
    photos = [path for path in sorted((shared / "data").rglob("*.*")) if path.suffix.lower() in formats.SUFFIXES]
    usual = [path for path in photos if "messy" not in path.parts][::50]
    assert len(usual) > 100
    assert [path for path in usual if limits.find_excess(path.read_bytes(), image.MAX_PIXELS)] == []


def test_a_file_of_many_megabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 10**6)
    assert limits.find_excess(bytes(10**6 + 1), 1) == "a file of 1 MB; the limit is 1 MB"
    assert limits.find_excess(bytes(10**6), 1) == ""


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "I;16", "F", "CMYK"])
def test_an_image_converted_in_bands_is_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    whole = Image.fromarray(rng.integers(0, 256, (50, 37, 4), np.uint8), "RGBA")
    made = {"I;16": lambda: Image.fromarray(rng.integers(0, 65536, (50, 37)).astype(np.uint16))}
    opened = made.get(mode, lambda: whole.convert("RGB").convert(mode) if mode == "F" else whole.convert(mode))()
    if mode == "P":
        opened.info["transparency"] = 3
    before = image.from_pil(opened)
    monkeypatch.setattr(image, "BAND_PIXELS", 37 * 7)
    np.testing.assert_array_equal(image.from_pil(opened), before)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_what_follows_the_end_of_an_image_costs_nothing(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (0, 128, 0)).save(file, kind)
    assert decode(file.getvalue() + bytes(2_000_000)).shape == (8, 8, 3)


@settings(max_examples=200, deadline=None)
@given(
    begin=st.sampled_from([b"\xff\xd8", b"\x89PNG", b"GIF89a", b"BM", b"II*\0", b"MM\0+", b"\0\0\1\0", b"P6 "]),
    rest=st.binary(max_size=300),
)
def test_whatever_the_header_holds_the_question_is_answered(begin: bytes, rest: bytes) -> None:
    assert isinstance(limits.find_excess(begin + rest, 10**6), str)


def test_a_jpeg_in_many_scans_of_few_pixels_passes() -> None:
    data = hostile.many_scans(64, 400)
    assert decode(data).shape == (64, 64, 3)
