"""One network, several threads; and the child of a fork: the same answers, or one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch

import graft
from graft.backbones.preprocess import Preprocess
from graft.errors import ExportError, UsageError
from graft.torch import convert, engine
from graft.torch.alone import _STATE, check_gradients, hold_torch_lock, temporary_seed
from graft.torch.network import FeaturesModule, ReferenceFeatures
from graft.torch.restore import build_random_module

ROUNDS = 12
CHILD = """
import os, sys, time
import numpy as np
import torch
torch.set_num_threads(2)
from graft.backbones.features import build_probe_features
from graft.heads.head import Head, zero_tensors
from graft.model.explain import saliency_maps
from graft.model.network import Network
from graft.torch import engine
from graft.torch.network import FeaturesModule
from graft.torch.restore import backbone_to_module, build_random_backbone

backbone = build_random_backbone("cnn")
features = build_probe_features(backbone)
spec = {"kind": "mlp", "width": features.width, "classes": 2, "hidden": [4], "activation": "gelu", "dropout": 0.0}
rng = np.random.default_rng(0)
tensors = {k: rng.normal(0, 1, v.shape).astype(v.dtype) for k, v in zero_tensors(spec).items()}
network = Network(features, Head(spec, tensors))
module = FeaturesModule(backbone_to_module(backbone).module, backbone.preprocess, ())
images = rng.integers(0, 256, (3, 3, *2 * [backbone.preprocess.size]), np.uint8)
want = engine.compile(module, backbone.preprocess.size)(images)
said = network(images), saliency_maps(network, images, [0, 1, 0])
if not (child := os.fork()):
    got = engine.compile(module, backbone.preprocess.size)(images)
    if np.abs(got - want).max() > 1e-4:
        sys.exit(3)
    again = network(images), saliency_maps(network, images, [0, 1, 0])
    sys.exit(0 if all(map(np.array_equal, said, again)) else 4)  # an ordinary end, as a server's worker has it
until = time.monotonic() + 60
while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
    time.sleep(0.02)
if not ended[0]:
    os.kill(child, 9)
    sys.exit("hangs")
print(os.waitstatus_to_exitcode(ended[1]))
"""


def test_threads_that_share_a_network_hear_their_own_images_only() -> None:
    backbone = build_random_module("cnn")
    layers = ["relu1", "relu2"]
    network = ReferenceFeatures(FeaturesModule(backbone.module, backbone.preprocess, layers), layers[:1])
    images = np.random.default_rng(0).integers(0, 256, (4, 3, *2 * [backbone.preprocess.size]), np.uint8)
    want = [engine.compile(network, backbone.preprocess.size)(image[None]) for image in images]
    assert min(np.abs(want[0] - other).max() for other in want[1:]) > 1e-3

    def asked(row: int) -> list[float]:
        return [
            float(np.abs(engine.compile(network, backbone.preprocess.size)(images[row][None]) - want[row]).max())
            for _ in range(ROUNDS)
        ]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(4) as threads:
            off = [worst for found in threads.map(asked, range(4)) for worst in found]
    finally:
        sys.setswitchinterval(before)
    assert len(off) == 4 * ROUNDS
    assert max(off) <= 1e-5


def test_one_network_is_exported_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter keeps its state once for a process: a second one in another thread failed, or saw it."""
    there, most = [0], [0]

    def export(*_: object, **__: object) -> None:
        there[0] += 1
        most[0] = max(most[0], there[0])
        time.sleep(0.05)
        there[0] -= 1
        raise RuntimeError("no export")

    monkeypatch.setattr(torch.onnx, "export", export)
    tiny = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()

    def compiled() -> None:
        engine.compile(torch.nn.Identity(), 8)

    def converted() -> None:
        with suppress(ExportError):
            convert.convert_module(tiny, Preprocess(size=8, resize=8))

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(each) for each in (compiled, converted, converted, compiled)]:
            done.result()
    assert most == [1]


def test_a_network_that_is_called_by_itself_hears_its_own_images_only_too() -> None:
    backbone = build_random_module("cnn")
    network = ReferenceFeatures(FeaturesModule(backbone.module, backbone.preprocess, ["relu1"]), ["relu2"]).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, *2 * [backbone.preprocess.size]), generator=generator).to(torch.uint8)
    with torch.no_grad():
        want = [network(image[None]) for image in images]

        def asked(row: int) -> float:
            with torch.no_grad():
                return max(float((network(images[row][None]) - want[row]).abs().max()) for _ in range(10 * ROUNDS))

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(4) as threads:
                off = list(threads.map(asked, range(4)))
        finally:
            sys.setswitchinterval(before)
    assert max(off) <= 1e-5


def test_heads_drawn_in_several_threads_are_those_drawn_alone() -> None:
    def drawn(seed: int) -> torch.Tensor:
        with temporary_seed(seed):
            return torch.cat([torch.rand(10) for _ in range(50)])

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(drawn, range(20)))
    assert all(torch.equal(one, drawn(seed)) for seed, one in enumerate(together))


def test_what_was_drawn_before_goes_on_afterwards() -> None:
    torch.manual_seed(5)
    want = torch.rand(2)
    torch.manual_seed(5)
    with hold_torch_lock(), temporary_seed(7):
        torch.rand(9)
    assert torch.equal(torch.rand(2), want)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_answers_and_draws_as_its_parent_does_or_says_that_it_cannot() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        check=False,
    )
    assert (ran.stdout.strip(), ran.returncode) == ("0", 0), ran.stderr


def test_where_torch_cannot_go_on_after_a_fork_it_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(_: torch.Tensor) -> None:
        raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing")

    check_gradients()
    monkeypatch.setattr(torch.Tensor, "backward", unable)
    check_gradients()  # no fork: not even asked
    monkeypatch.setattr(_STATE, "forked", True)
    with pytest.raises(UsageError, match=r"one that had trained a network, .*get_context\('spawn'\)"):
        graft.fit("no such folder", strategy="full")
