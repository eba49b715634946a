"""What every test of the runtime stands on: types checked at run time, and real images where there are any."""

from collections.abc import Iterator
from pathlib import Path

import exported
import pytest
import serving
from beartype import BeartypeConf
from beartype.claw import beartype_packages

# As in tests/conftest.py, which does not reach here: the runtime is a distribution of its own, and so are its tests.
beartype_packages(("graft_runtime",), conf=BeartypeConf(is_pep484_tower=True, warning_cls_on_decorator_exception=None))

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs real images in a folder named 'shared' beside the repository")
    return SHARED


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file that tells colours."""
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    path.write_bytes(exported.file())
    return path


@pytest.fixture(scope="module")
def server(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    """A server of it that keeps corrections."""
    with serving.running(file, corrections=tmp_path_factory.mktemp("kept")) as found:
        yield found
