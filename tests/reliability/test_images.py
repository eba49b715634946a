"""Images, paths and classes as people have them, all the way: trained on, saved, exported, answered."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import NETWORK, QUICK, graft
from tensors import same

import graft_runtime
from graft.data.dataset import compute_digest
from graft.data.readers.folder import read_folder
from graft.errors import DataError
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.model.classifier import load
from graft.progress import ProgressTask
from graft.torch import feed, finetune
from graft_runtime.image import ImageError, decode


@pytest.mark.fault(4)
def test_a_damaged_image_that_decodes_never_gets_the_features_of_the_sound_one(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "p")
    first = json.loads(graft("fit", root, "-o", tmp_path / "a", *NETWORK, *QUICK, "--json").stdout)
    sound = (root / "disc/01.jpg").read_bytes()
    half = len(sound) // 2
    damaged = sound[:half] + bytes(200) + sound[half + 200 :]
    assert compute_digest(damaged) != compute_digest(sound)
    (root / "disc/01.jpg").write_bytes(damaged)
    os.utime(root / "disc/01.jpg", (0, 0))  # an old date does not hide it
    again = json.loads(graft("fit", root, "-o", tmp_path / "b", *NETWORK, *QUICK, "--json").stdout)
    fault = again["data"]["faults"]
    assert again["embedded"]["computed"] == 1 - len(fault)
    assert first["data"]["faults"] == {}
    assert set(fault) <= {"disc/01.jpg"}


@pytest.mark.slow
@pytest.mark.fault(5)
def test_a_file_that_goes_while_training_is_told_and_put_back_the_run_goes_on(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(feed, "MAX_CACHED_BYTES", 0)  # no image is kept in memory, as with many
    root, updates = shutil.copytree(photos, tmp_path / "p", ignore=shutil.ignore_patterns("disc")), []

    def watch(things, what: str | ProgressTask, _count: int):  # type: ignore[no-untyped-def]
        for thing in things:
            if str(what).startswith("updates"):
                updates.append(what)
                if len(updates) == 3:
                    shutil.move(root / "frame", tmp_path / "aside")
            yield thing

    options = {"strategy": "full", "backbone": "test_resnet", "recipe": "epochs=2,batch=4,blend=none,refit=no"}
    with pytest.raises(DataError, match=r"frame/.* could be read before, and now cannot: .*No such file"):
        fit(root, tmp_path / "m", offline=True, watch=watch, **options)
    shutil.move(tmp_path / "aside", root / "frame")
    resumed = fit(root, tmp_path / "m", offline=True, resume=True, **options)
    whole = fit(root, tmp_path / "whole", offline=True, **options)
    assert same(resumed, whole)


@pytest.mark.fault(6)
@pytest.mark.usefixtures("plain_user")
def test_files_without_permission_are_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "p")
    (root / "disc/00.png").chmod(0)
    shutil.copytree(root / "frame", root / "closed")
    (root / "closed").chmod(0)
    try:
        done = graft("fit", root, "-o", tmp_path / "m", *NETWORK, *QUICK, "--json")
        data = json.loads(done.stdout)["data"]
        assert list(data["faults"]) == ["disc/00.png"]
        assert "Permission denied" in data["faults"]["disc/00.png"]
        assert data["train"] + data["test"] == 35
        assert data["ignored"]["unreadable folders"] == 1
        said = json.loads(graft("predict", tmp_path / "m", root / "disc", "--json", "-q").stdout)
        assert [bool(each["fault"]) for each in said] == [True] + [False] * 11
    finally:
        (root / "closed").chmod(0o755)


FORMATS = {  # what Pillow would open, or others would, by its first bytes
    "a.fits": b"SIMPLE  =                    T",
    "a.wmf": b"\xd7\xcd\xc6\x9a\0\0",
    "a.h5": b"\x89HDF\r\n\x1a\n",
    "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a.psd": b"8BPS\0\1",
    "a.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "a.fli": b"\0\0\0\0\x11\xaf",
    "a.icns": b"icns\0\0\0\x40",
}


@pytest.mark.fault(18)
@pytest.mark.parametrize("name", FORMATS)
def test_a_kind_that_is_not_read_is_never_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(ImageError, match=r"not an image|is not read"):
        decode(FORMATS[name] + zlib.compress(bytes(1000)))


@pytest.mark.slow
@pytest.mark.fault(19)
def test_images_of_one_pixel_and_of_one_row_are_trained_on_and_answered(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "p")
    for number, size in enumerate([(1, 1), (1, 5000), (5000, 1)]):
        for kind in ("disc", "frame"):
            Image.new("RGB", size, (200, 10 * number, 90)).save(root / kind / f"odd{number}.png")
    model = fit(root, tmp_path / "m", strategy=QUICK[1], backbone="test_resnet", offline=True)
    assert model.report["data"]["faults"] == {}
    odd = sorted(root.rglob("odd*.png"))
    export(model, tmp_path / "m.onnx")
    want, said = model.predict(odd), graft_runtime.load(tmp_path / "m.onnx").predict(odd)
    assert [each.label for each in said] == [each.label for each in want]
    assert [each.probability for each in said] == pytest.approx([each.probability for each in want], abs=1e-4)


@pytest.mark.slow
@pytest.mark.fault(24)
def test_classes_of_numbers_have_one_order_from_the_folder_to_the_export(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        (tmp_path / f"p/{number}").mkdir(parents=True)
        for at in range(6):
            pixels = np.full((40, 40, 3), (number * 20, 255 - number * 20, number % 4 * 80)) + rng.normal(
                0, 9, (40, 40, 3)
            )
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / f"p/{number}/{at}.png")
    wanted = tuple(str(number) for number in range(1, 13))
    model = fit(tmp_path / "p", tmp_path / "m", strategy=QUICK[1], backbone="test_resnet", offline=True)
    export(model, tmp_path / "m.onnx")
    runtime = graft_runtime.load(tmp_path / "m.onnx")
    assert model.classes == load(tmp_path / "m").classes == tuple(runtime.card.classes) == wanted
    images = [tmp_path / f"p/{number}/0.png" for number in wanted]
    assert [each.label for each in load(tmp_path / "m").predict(images)] == list(wanted)
    assert [each.label for each in runtime.predict(images)] == list(wanted)
    assert read_folder(tmp_path / "p").classes == wanted


@pytest.mark.fault(30)
def test_long_paths_and_odd_letters_are_trained_on_and_answered(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "p")
    deep = root / "disc" / ("d" * 150) / ("é " * 60)
    deep.mkdir(parents=True)
    odd = deep / "line\nbreak\t.png"
    shutil.copy(root / "disc/00.png", odd)
    (root / "disc/00.png").unlink()
    done = graft("fit", root, "-o", tmp_path / "m é", *NETWORK, *QUICK, "--json")
    assert json.loads(done.stdout)["data"]["faults"] == {}
    said = json.loads(graft("predict", tmp_path / "m é", odd, "--json", "-q").stdout)
    assert (said[0]["image"], said[0]["label"]) == (str(odd), "disc")
    assert len(str(odd)) > 300
