"""Serve a classifier over HTTP with a web page; a saved classifier is exported to the cache first.

An exported file is served without torch, which is therefore imported where it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from graft import atomic
from graft.data.cache import cache_folder, free_path
from graft.errors import ModelError, OutputError, UsageError
from graft.progress import ProgressWrapper, no_progress
from graft_runtime import card, contract, safe_files
from graft_runtime.serve import server
from graft_runtime.serve.model import Model

MAX_EXPORT_BYTES = 1 << 34  # 16 GB


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    corrections: Path | None = None,
    evidence: str | None = None,
    started: Callable[[server.Address], None] = lambda address: None,
    watch: ProgressWrapper = no_progress,
) -> None:
    """Serve a file of `graft export`, a saved classifier or a network by name until SIGINT or SIGTERM.

    A server that other machines can reach requires a token, and makes one where none is given. `corrections` is a
    folder for the images whose prediction a user corrected; `evidence` are the photos that a classifier was trained on,
    the nearest of which are shown. `started` is called with the address.

    Raises ModelError for what is not a classifier, ExportError for one that cannot be exported, UsageError for a token
    that is too short, OutputError for an address that cannot be used.
    """
    path = export_to_cache(model, evidence, watch)
    try:
        server.serve(Model(path), host=host, port=port, token=token, corrections=corrections, on_start=started)
    except contract.ModelFileError as error:
        raise ModelError(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise OutputError(str(error)) from error


def export_to_cache(model: str | Path, evidence: str | None, watch: ProgressWrapper) -> Path:
    """Return the file itself or, of a classifier, its export in the cache, made on first use."""
    if Path(model).is_file():
        if evidence:
            raise UsageError(
                "A file that was exported has its evidence inside: name photos to `graft export --evidence`."
            )
        return Path(model)
    from graft.jobs.direct import open_classifier  # here, as what follows: a file is served without it
    from graft.jobs.export.export import export
    from graft.model.card import collect_versions

    classifier = open_classifier(model)
    photos = str(Path(evidence).absolute()) if evidence else ""
    made_by = [version for name, version in collect_versions().items() if name != "created"]
    identity = "".join([card.dump(classifier.card), *made_by, photos])
    folder = cache_folder() / "served" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    path = folder / f"{Path(model).absolute().name}.onnx"  # clients see the file's name as the model's
    if not _is_sound(path):
        path = free_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {atomic.describe_error(error)}.") from error
        export(classifier, path, evidence=evidence, watch=watch)
    return path


def _is_sound(path: Path) -> bool:
    """Whether an export can be read and is not damaged; otherwise it is made again."""
    try:
        contract.read_description(safe_files.read_limited(path, MAX_EXPORT_BYTES))
    except (OSError, contract.ModelFileError):
        return False
    return True
