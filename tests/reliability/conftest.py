"""A small network, a classifier by it, a disk of its own, and a user who may not read everything."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from programs import NETWORK, QUICK, Disk, graft
from safetensors.torch import save_file
from shaken import shaken

from graft.backbones import catalog
from graft.torch import build

VERSION, OVERRIDES = 0x20080522, 1 << 1 | 1 << 2  # of capset(2): what lets root pass over permissions of files


@pytest.fixture(scope="module", autouse=True)  # of the whole session it would reach the tests of other folders
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights of test_resnet in the folder that GRAFT_WEIGHTS names, until the tests of this file are over."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(
        shaken(build.build_network(catalog.find_entry("test_resnet"))).state_dict(), folder / "test_resnet.safetensors"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_WEIGHTS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed `graft fit` wrote.

    With a cache of its own: features that another test computed in other batches differ in their last bits.
    """
    folder = tmp_path_factory.mktemp("undisturbed") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(folder.with_name("cache")))
        done = graft("fit", photos, "-o", folder, *NETWORK, *QUICK)
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 24 MB beside the one that the tests are on."""
    place, mount = tmp_path / "disk", shutil.which("mount")
    place.mkdir()
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=False).returncode:
        pytest.skip("may not mount a disk here")
    yield Disk(place)
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def plain_user() -> Iterator[None]:
    """Permissions of files count in this thread and those it starts, for root too; for anybody else they do anyway."""
    system = ctypes.CDLL(None, use_errno=True)
    who, powers = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()  # of each 32: effective, permitted, ...
    assert system.capget(who, powers) == 0
    before = powers[0]
    powers[0] = before & ~OVERRIDES
    assert system.capset(who, powers) == 0
    yield
    powers[0] = before
    assert system.capset(who, powers) == 0
