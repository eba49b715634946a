"""One at a time: what torch keeps once for a whole process, asked from several threads; and what a fork leaves of it.

Layers are listened to by hooks on modules that threads share, and torch draws from one generator. So a forward pass,
an export and every draw hold one lock. It costs nothing: a pass uses all cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from graft.errors import UsageError


@dataclass
class _Process:
    """The lock, and whether this is the child of a fork."""

    lock: Any = field(default_factory=threading.RLock)
    forked: bool = False


_HERE = _Process()


@contextmanager
def alone() -> Iterator[None]:
    """No other thread runs a network of torch's, or draws, while this lasts. May be nested."""
    with _HERE.lock:
        yield


@contextmanager
def seeded(seed: int, gpu: bool = False) -> Iterator[None]:
    """Torch's generator begins at this seed, alone, and afterwards is as it was; with `gpu` those of the GPUs too."""
    with alone(), torch.random.fork_rng(devices=range(torch.cuda.device_count()) if gpu else []):
        if gpu:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU's generators
        yield


def check_gradients() -> None:
    """Raises UsageError in the child of a fork whose parent has worked out gradients: torch cannot there."""
    if not _HERE.forked:
        return
    try:
        torch.zeros((), requires_grad=True).backward()
    except RuntimeError as error:
        raise UsageError(_cannot("trained a network", "train")) from error


def check_device() -> None:
    """Raises UsageError in the child of a fork whose parent has used a GPU: CUDA does not live through a fork."""
    if _HERE.forked and torch.cuda.is_available() and torch.cuda._is_in_bad_fork():
        raise UsageError(_cannot("used the GPU", "use it"))


def _cannot(did: str, do: str) -> str:
    return (
        f"This process was forked from one that had {did}, and PyTorch cannot {do} in such a child. Start workers "
        "afresh: multiprocessing.get_context('spawn'), or gunicorn without --preload."
    )


def _forked() -> None:
    """In the child only the thread that forked lives on: a lock that another held would never be free again, and
    torch would wait for threads that are gone unless it runs in this one alone."""
    _HERE.lock, _HERE.forked = threading.RLock(), True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
