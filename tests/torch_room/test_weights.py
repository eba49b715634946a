"""Weights: which place wins, downloads that go well or wrong, and files that are what their hash promises."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graft.backbones import catalog, weights
from graft.backbones.catalog import CatalogEntry
from graft.backbones.weights import WeightsSource
from graft.errors import WeightsError
from graft.torch.build import TORCHVISION, build_network, load_weights

REPOSITORY = "timm/test_resnet.r160_in1k"
TINY = catalog.find_entry("test_resnet")
LITE0 = weights.PACKAGES[catalog.DEFAULT]
Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of weights, and empty caches: what this machine happens to have must not matter."""
    monkeypatch.delenv("GRAFT_WEIGHTS", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    torch.manual_seed(0)
    return {name: torch.rand_like(each) if each.is_floating_point() else each for name, each in fresh(TINY).items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("GRAFT_WEIGHTS", os.pathsep.join([str(tmp_path / "absent"), str(tmp_path / "weights")]))
    return tmp_path / "weights"


class Server(ThreadingHTTPServer):
    """A stand-in for both hubs: what it has by path; `sent` bytes of each file before the connection breaks."""

    files: dict[str, bytes]
    asked: list[str]
    sent: int | None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", "c" * 40)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.server.files.get(self.path, b"")[: self.server.sent])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as server:
        server.files, server.asked, server.sent = {}, [], None
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield server
        server.shutdown()


def fresh(entry: CatalogEntry) -> Tensors:
    return build_network(entry).state_dict()


def loaded(entry: CatalogEntry, source: WeightsSource) -> tuple[nn.Module, WeightsSource]:
    network = build_network(entry)
    return network, load_weights(entry, network, source)


def same(network: nn.Module, tensors: Tensors) -> bool:
    own = network.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in own)


def saved(tensors: Tensors, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def content(tensors: Tensors, tmp_path: Path) -> bytes:
    return saved(tensors, tmp_path / "served.safetensors").read_bytes()


def in_hub_cache(tensors: Tensors, tmp_path: Path) -> Path:
    """A file as the hub's client leaves it: a link to a blob that is named by its hash."""
    root = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    part = saved(tensors, root / "blobs" / "part")
    blob = part.rename(part.with_name(hashlib.sha256(part.read_bytes()).hexdigest()))
    link = root / "snapshots" / ("c" * 40) / "model.safetensors"
    for each in (link, root / "refs" / "main"):
        each.parent.mkdir(parents=True)
    link.symlink_to(blob)
    (root / "refs" / "main").write_text("c" * 40)
    return link


# Which place wins


def test_each_place_shadows_the_next(folder: Path, tmp_path: Path, tensors: Tensors) -> None:
    assert weights.locate(TINY) == WeightsSource(
        "download", None, "apache-2.0", f"{REPOSITORY} on the Hugging Face hub"
    )
    link = in_hub_cache(tensors, tmp_path)
    assert weights.locate(TINY) == WeightsSource("cached", link, "apache-2.0", f"{REPOSITORY} on the Hugging Face hub")
    for ending in (".bin", ".pt", ".pth", ".safetensors"):
        path = saved(tensors, folder / f"test_resnet{ending}")
        assert (weights.locate(TINY).where, weights.locate(TINY).path) == ("folder", path)
    path = saved(tensors, tmp_path / "mine")
    assert weights.locate(TINY, path) == WeightsSource("file", path, "not stated", f"file {path}")


def test_the_embedded_weights_come_after_a_folder_and_before_the_caches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalog.find_entry(catalog.DEFAULT)
    monkeypatch.setattr(weights, "_find_cached", lambda entry: pytest.fail("looked into a cache"))
    assert weights.locate(entry).where == "embedded"
    (folder / "tf_efficientnet_lite0.pth").write_bytes(b"")
    assert weights.locate(entry).where == "folder"


def test_folders_are_searched_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: Tensors) -> None:
    first, second = (saved(tensors, tmp_path / name / "test_resnet.safetensors") for name in ("b", "a"))
    monkeypatch.setenv("GRAFT_WEIGHTS", os.pathsep.join([str(first.parent), str(second.parent)]))
    assert weights.locate(TINY).path == first
    first.unlink()
    assert weights.locate(TINY).path == second


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, tensors: Tensors) -> None:
    source = weights.locate(TINY, saved(tensors, tmp_path / "gone.safetensors"))
    (tmp_path / "gone.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"Cannot read .*gone\.safetensors: No such file"):
        loaded(TINY, source)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no weights file .*absent\.pth"):
        weights.locate(TINY, tmp_path / "absent.pth")


@pytest.mark.fault(42)
@pytest.mark.parametrize("offline", ["argument", "environment"])
def test_offline_says_where_it_looked_and_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    if offline == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        weights.locate(TINY, offline=offline == "argument")
    message = str(caught.value)
    assert "'test_resnet'" in message
    assert f"{folder}," in message
    assert "absent (no such folder)" in message
    assert "test_resnet.safetensors into a folder named in GRAFT_WEIGHTS, pass --weights FILE, or use tf_eff" in message


def test_unpublished_weights_are_said_to_be_so() -> None:
    with pytest.raises(WeightsError, match=r"No weights of 'botnet50ts_256' are published\. Put botnet50ts_256\.safe"):
        weights.locate(catalog.find_entry("botnet50ts_256"))


def test_a_damaged_file_in_the_cache_is_found(tmp_path: Path, tensors: Tensors) -> None:
    link = in_hub_cache(tensors, tmp_path)
    assert same(loaded(TINY, weights.locate(TINY, offline=True))[0], tensors)
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged: .* Delete .*model\.safetensors and start"):
        loaded(TINY, weights.locate(TINY))


# The embedded default


def test_the_embedded_weights_are_the_file_of_the_package_tensor_by_tensor() -> None:
    entry = catalog.find_entry(catalog.DEFAULT)
    network, source = loaded(entry, weights.locate(entry, offline=True))
    assert (source.where, source.licence, source.origin) == ("embedded", "apache-2.0", f"package {LITE0.name}")
    assert source.path is not None
    assert source.sha256 == LITE0.sha256 == hashlib.sha256(source.path.read_bytes()).hexdigest()
    theirs = torch.load(source.path, weights_only=True)
    assert len(theirs) == 296
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), theirs.values(), strict=True))
    assert sum(float(each.double().sum()) for each in theirs.values()) != 0
    again, _ = loaded(entry, weights.locate(entry, source.path))  # the same file, passed by hand
    assert same(again, network.state_dict())


def test_a_changed_embedded_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.PACKAGES, catalog.DEFAULT, replace(LITE0, sha256="0" * 64))
    entry = catalog.find_entry(catalog.DEFAULT)
    with pytest.raises(WeightsError, match=r"is damaged: its SHA-256 begins 579344248a93e230, not 0000.*Install"):
        loaded(entry, weights.locate(entry))


def test_without_the_package_the_default_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.PACKAGES, catalog.DEFAULT, replace(LITE0, name="no_such_package"))
    assert weights.locate(catalog.find_entry(catalog.DEFAULT)).where == "download"


@pytest.mark.fault(42)
@pytest.mark.slow
def test_offline_opens_no_socket() -> None:
    code = """if True:
        import socket
        def refuse(*args, **kwargs):
            raise AssertionError("a socket")
        socket.socket.__init__ = socket.getaddrinfo = refuse
        from graft.backbones import catalog, weights
        from graft.torch.build import build_network
        from graft.torch.build import load_weights
        entry = catalog.find_entry(catalog.DEFAULT)
        network = build_network(entry)
        print(load_weights(entry, network, weights.locate(entry, offline=True)).sha256)
        try:
            socket.socket()
        except AssertionError as caught:
            print(caught)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == [LITE0.sha256, "a socket"], done.stderr


# Downloads, from a server that stands in for the hubs


def test_a_download_from_the_hub_is_cached(server: Server, tmp_path: Path, tensors: Tensors) -> None:
    server.files[f"/{REPOSITORY}/resolve/main/model.safetensors"] = content(tensors, tmp_path)
    network, source = loaded(TINY, weights.locate(TINY))
    assert same(network, tensors)
    assert source.path is not None
    assert (source.where, source.licence) == ("download", "apache-2.0")
    assert source.sha256 == source.path.resolve().name == hashlib.sha256(source.path.read_bytes()).hexdigest()
    asked = len(server.asked)
    again = weights.locate(TINY, offline=True)
    assert again == replace(source, where="cached", sha256="")
    assert loaded(TINY, again)[1].sha256 == source.sha256
    assert len(server.asked) == asked


def test_the_hub_may_have_the_older_kind_of_file(server: Server, tmp_path: Path, tensors: Tensors) -> None:
    torch.save(tensors, tmp_path / "old.bin")
    server.files[f"/{REPOSITORY}/resolve/main/pytorch_model.bin"] = (tmp_path / "old.bin").read_bytes()
    network, source = loaded(TINY, weights.locate(TINY))
    assert same(network, tensors)
    assert source.path is not None
    assert source.path.name == "pytorch_model.bin"


def test_a_hub_without_the_file_says_what_to_do(server: Server) -> None:
    with pytest.raises(
        WeightsError, match=rf"Cannot download {REPOSITORY} on the \S+ \S+ hub: 404 .*Entry Not Found.*--wei"
    ):
        loaded(TINY, weights.locate(TINY))


def test_a_hub_that_breaks_off_leaves_nothing(
    server: Server, tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between its five trials
    server.files[f"/{REPOSITORY}/resolve/main/model.safetensors"] = content(tensors, tmp_path)
    server.sent = 5000
    with pytest.raises(WeightsError, match=r"Cannot download timm/\S+ on the Hugging Face hub: peer closed connection"):
        loaded(TINY, weights.locate(TINY))
    assert weights.locate(TINY).where == "download"
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


@pytest.mark.fault(42)
def test_no_server_says_what_to_do(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_repository", lambda entry: "")
    monkeypatch.setattr(weights, "_url", lambda entry: "http://127.0.0.1:9/gone.pth")
    with pytest.raises(WeightsError, match=r"Cannot download gone\.pth of timm: .*refused.*\. Put test_resnet"):
        loaded(TINY, weights.locate(TINY))


@pytest.fixture
def torch_hub(server: Server, tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a file for the tiny network as torchvision publishes them: with part of its hash in the name."""
    whole = content(tensors, tmp_path)
    path = f"/models/tiny-{hashlib.sha256(whole).hexdigest()[:8]}.pth"
    server.files[path] = whole
    monkeypatch.setattr(weights, "_repository", lambda entry: "")
    monkeypatch.setattr(weights, "_url", lambda entry: server.address + path)
    return path


def checkpoints(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "torch" / "hub" / "checkpoints").glob("*")]


def test_a_download_from_an_address_is_cached(server: Server, torch_hub: str, tmp_path: Path, tensors: Tensors) -> None:
    assert weights.locate(TINY).where == "download"
    network, source = loaded(TINY, weights.locate(TINY))
    assert same(network, tensors)
    assert source.origin == f"{Path(torch_hub).name} of timm"
    assert checkpoints(tmp_path) == [Path(torch_hub).name]
    assert loaded(TINY, weights.locate(TINY, offline=True))[1].where == "cached"
    assert server.asked == [f"GET {torch_hub}"]


def test_a_missing_address_leaves_nothing(server: Server, torch_hub: str, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(WeightsError, match=r"Cannot download tiny-\w+\.pth of timm: HTTP Error 404: Not Found\. Put"):
        loaded(TINY, weights.locate(TINY))
    assert checkpoints(tmp_path) == []


def test_a_download_that_breaks_off_leaves_nothing(server: Server, torch_hub: str, tmp_path: Path) -> None:
    server.sent = 5000
    with pytest.raises(WeightsError, match=r"the connection broke after 5000 of \d+ bytes\. Put"):
        loaded(TINY, weights.locate(TINY))
    assert checkpoints(tmp_path) == []


def test_a_download_with_another_hash_leaves_nothing(server: Server, torch_hub: str, tmp_path: Path) -> None:
    server.files[torch_hub] += b"more"
    with pytest.raises(WeightsError, match=r"is damaged: its SHA-256 begins .* The download was damaged on its way"):
        loaded(TINY, weights.locate(TINY))
    assert checkpoints(tmp_path) == []


@pytest.mark.fault(34)
def test_a_full_disk_leaves_nothing(
    server: Server, torch_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(answer: object, out: object, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.shutil, "copyfileobj", full)
    with pytest.raises(WeightsError, match=r"Cannot download .*No space left on device"):
        loaded(TINY, weights.locate(TINY))
    assert checkpoints(tmp_path) == []


def test_torchvision_networks_have_an_address_with_a_hash() -> None:
    for name in TORCHVISION:
        entry = catalog.find_entry(name)
        assert weights.locate(entry).origin.endswith(".pth of torchvision")
        assert len(weights._hash_from_name(Path(weights._url(entry)))) == 8


# Real weights


@pytest.mark.parametrize("name", ["mobilenetv2_100", "squeezenet1_1", "deit_tiny_patch16_224", "mobilenetv1_100"])
def test_real_weights_load_from_a_folder(shared: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = shared / "weights"
    monkeypatch.setenv("GRAFT_WEIGHTS", str(folder))
    entry = catalog.find_entry(name)
    network, source = loaded(entry, weights.locate(entry, offline=True))
    path = folder / f"{name}.safetensors"
    assert (source.where, source.path) == ("folder", path)
    assert source.origin == f"{name}.safetensors of {folder} (GRAFT_WEIGHTS)"
    assert same(network, {n: t.to(network.state_dict()[n].dtype) for n, t in load_file(path).items()})
