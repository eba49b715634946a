"""A classifier that was trained and saved, for the jobs that use one."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.jobs.fit import fit


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs") / "model"
    fit(photos, folder, strategy="probe:head=ridge,layers=last")
    return folder
