"""Locks around torch's process-wide state, for several threads, and checks after a fork.

Outputs of layers are collected by hooks on modules that threads share, and torch draws from one generator. So a forward
pass, an export and every draw hold one lock. It costs nothing: a pass uses all cores.
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
class _ForkState:
    """The lock, and whether this is the child of a fork."""

    lock: Any = field(default_factory=threading.RLock)
    forked: bool = False


_STATE = _ForkState()


@contextmanager
def hold_torch_lock() -> Iterator[None]:
    """No other thread runs a network of torch's, or draws, while this lasts. May be nested."""
    with _STATE.lock:
        yield


@contextmanager
def temporary_seed(seed: int, gpu: bool = False) -> Iterator[None]:
    """Torch's generator begins at this seed, alone, and afterwards is as it was; with `gpu` those of the GPUs too."""
    with hold_torch_lock(), torch.random.fork_rng(devices=range(torch.cuda.device_count()) if gpu else []):
        if gpu:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU's generators
        yield


def check_gradients() -> None:
    """Raises UsageError in the child of a fork whose parent has worked out gradients: torch cannot there."""
    if not _STATE.forked:
        return
    try:
        torch.zeros((), requires_grad=True).backward()
    except RuntimeError as error:
        raise UsageError(_fork_message("trained a network", "train")) from error


def check_device() -> None:
    """Raises UsageError in the child of a fork whose parent has used a GPU: CUDA does not live through a fork."""
    if _STATE.forked and torch.cuda.is_available() and torch.cuda._is_in_bad_fork():
        raise UsageError(_fork_message("used the GPU", "use it"))


def _fork_message(did: str, do: str) -> str:
    return (
        f"This process was forked from one that had {did}, and PyTorch cannot {do} in such a child. Start workers "
        "afresh: multiprocessing.get_context('spawn'), or gunicorn without --preload."
    )


def _reset_after_fork() -> None:
    """In the child only the thread that forked lives on: a lock that another held would never be free again, and
    torch would wait for threads that are gone unless it runs in this one alone."""
    _STATE.lock, _STATE.forked = threading.RLock(), True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
