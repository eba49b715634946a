"""A classifier over HTTP, with a web page; a folder is exported first, once.

A file that was exported is served without torch: what needs it is imported where it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from graft.data.cache import cache_folder, freed
from graft.errors import ModelError, OutputError, UsageError
from graft.model import whole
from graft.progress import Watch, unwatched
from graft_runtime import card, contract, regular
from graft_runtime.serve import server
from graft_runtime.serve.model import Model

LARGEST = 1 << 34  # bytes of an export


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    corrections: Path | None = None,
    evidence: str | None = None,
    started: Callable[[server.Address], None] = lambda address: None,
    watch: Watch = unwatched,
) -> None:
    """Answer requests until SIGINT or SIGTERM, by a file of `graft export`, a saved classifier or a network by name.

    A server that others than this machine can reach asks for a token, and makes one where none is given. `corrections`
    is a folder that keeps the pictures whose answer a user corrected; `evidence` are the photos that a classifier was
    trained on, the nearest of which are shown. `started` hears the address.

    Raises ModelError for what is no classifier, ExportError for one that cannot be exported, UsageError for a token
    that is too short, OutputError for an address that cannot be had.
    """
    path = exported(model, evidence, watch)
    try:
        server.serve(Model(path), host=host, port=port, token=token, corrections=corrections, started=started)
    except contract.ModelError as error:
        raise ModelError(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise OutputError(str(error)) from error


def exported(model: str | Path, evidence: str | None, watch: Watch) -> Path:
    """The file itself or, of a classifier, its export in the cache: made the first time, checked on made pictures."""
    if Path(model).is_file():
        if evidence:
            raise UsageError(
                "A file that was exported has its evidence inside: name photos to `graft export --evidence`."
            )
        return Path(model)
    from graft.jobs.direct import opened  # here, as what follows: a file is served without it
    from graft.jobs.export.export import export
    from graft.model.card import versions

    classifier = opened(model)
    photos = str(Path(evidence).absolute()) if evidence else ""
    made_by = [version for name, version in versions().items() if name != "created"]
    known = "".join([card.dump(classifier.card), *made_by, photos])
    folder = cache_folder() / "served" / hashlib.sha256(known.encode()).hexdigest()[:24]
    path = folder / f"{Path(model).absolute().name}.onnx"  # by its name clients know the model
    if not _is_sound(path):
        path = freed(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {whole.reason(error)}.") from error
        export(classifier, path, evidence=evidence, watch=watch)
    return path


def _is_sound(path: Path) -> bool:
    """Whether an export can be used; one that is damaged, or cannot be read, is made anew."""
    try:
        contract.read(regular.read(path, LARGEST))
    except (OSError, contract.ModelError):
        return False
    return True
