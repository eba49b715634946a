"""What every test of the runtime stands on: types checked at run time, and real pictures where there are any."""

from pathlib import Path

import pytest
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
