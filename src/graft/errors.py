"""Every error that graft raises on purpose.

GraftError
├── UsageError      an option or argument that cannot be; exit code 2
├── DataError       the images or their labels; exit code 3
├── WeightsError    pretrained weights missing, damaged or of another network; exit code 4
├── CutError        a network that cannot be cut there; exit code 4
├── ModelError      a saved classifier that cannot be read; exit code 5
├── OutputError     a place that cannot be written to; exit code 6
├── TrainingError   a training that cannot go on; exit code 7
├── ExportError     a classifier that cannot be exported, or whose export answers differently; exit code 8
└── UpdateError     a classifier that cannot be updated, or whose update is worse; exit code 9

Each message says what is wrong, where, and what to do. The command line prints it without a traceback.
"""

from __future__ import annotations


class GraftError(Exception):
    """Base class of graft's errors: the user can do something about each."""

    exit_code = 1


class GraftWarning(UserWarning):
    """A warning: something failed that costs time, not correctness."""


class UsageError(GraftError, ValueError):
    """An option or argument that cannot be."""

    exit_code = 2


class DataError(GraftError, ValueError):
    """The images or their labels do not make a data set."""

    exit_code = 3


class WeightsError(GraftError):
    """Pretrained weights are missing, damaged or belong to another network."""

    exit_code = 4


class CutError(GraftError, ValueError):
    """The network cannot be cut at this border."""

    exit_code = 4


class ModelError(GraftError):
    """A saved classifier cannot be read."""

    exit_code = 5


class OutputError(GraftError, OSError):
    """A file or folder cannot be written."""

    exit_code = 6


class TrainingError(GraftError):
    """Training cannot go on: its checkpoint is damaged, or its numbers are no longer finite."""

    exit_code = 7


class ExportError(GraftError):
    """A classifier cannot be exported, or its export answers differently."""

    exit_code = 8


class UpdateError(GraftError):
    """A classifier cannot be updated, or its update is worse on the classes that it had."""

    exit_code = 9
