"""graft: transfer learning for image classification, from a folder of labelled photos to a deployable classifier."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # the reason is in graft_runtime/__init__.py

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ does it
    from graft.data.dataset import Dataset, from_arrays, from_paths
    from graft.data.readers.folder import read_folder
    from graft.data.readers.source import read_source
    from graft.errors import GraftError
    from graft.estimator import ImageClassifier
    from graft.jobs.check.check import check
    from graft.jobs.embed import embed
    from graft.jobs.evaluate import compare_runs, evaluate
    from graft.jobs.explain import explain
    from graft.jobs.export.export import export
    from graft.jobs.fit import fit
    from graft.jobs.predict import predict
    from graft.jobs.report.report import report
    from graft.jobs.update.update import update
    from graft.metrics.evaluation import Evaluation
    from graft.model.classifier import Classifier, load
    from graft.training.plan import Plan
    from graft_runtime.prediction import Prediction

__version__ = "0.1.0.dev0"

__all__ = [
    "Classifier",
    "Dataset",
    "Evaluation",
    "GraftError",
    "ImageClassifier",
    "Plan",
    "Prediction",
    "check",
    "compare_runs",
    "embed",
    "evaluate",
    "explain",
    "export",
    "fit",
    "from_arrays",
    "from_paths",
    "load",
    "predict",
    "read_folder",
    "read_source",
    "report",
    "update",
]

_HOMES = {
    "Classifier": "graft.model.classifier",
    "Dataset": "graft.data.dataset",
    "Evaluation": "graft.metrics.evaluation",
    "GraftError": "graft.errors",
    "ImageClassifier": "graft.estimator",
    "Plan": "graft.training.plan",
    "Prediction": "graft_runtime.prediction",
    "check": "graft.jobs.check.check",
    "compare_runs": "graft.jobs.evaluate",
    "embed": "graft.jobs.embed",
    "evaluate": "graft.jobs.evaluate",
    "explain": "graft.jobs.explain",
    "export": "graft.jobs.export.export",
    "fit": "graft.jobs.fit",
    "from_arrays": "graft.data.dataset",
    "from_paths": "graft.data.dataset",
    "load": "graft.model.classifier",
    "predict": "graft.jobs.predict",
    "read_folder": "graft.data.readers.folder",
    "read_source": "graft.data.readers.source",
    "report": "graft.jobs.report.report",
    "update": "graft.jobs.update.update",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch takes seconds to load, and `import graft` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'graft' has no attribute {name!r}")
    if name == "ImageClassifier":
        import_module("graft.extras").require_package("sklearn", "graft.ImageClassifier")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
