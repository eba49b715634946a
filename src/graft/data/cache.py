"""The cache folder of graft: what it can compute or unpack again."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path


def cache_folder() -> Path:
    """Return GRAFT_CACHE, else `graft` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRAFT_CACHE") or Path(home) / "graft")


def free_path(path: Path) -> Path:
    """Remove what lies at a path of the cache and return the path; if that fails, return another beside it."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # another user's
        return path.parent / secrets.token_hex(8) / path.name
    return path
