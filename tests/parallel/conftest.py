"""Runs that several files compare with."""

from pathlib import Path

import pytest

from tests.parallel.runs import run
from tests.tiny import tiny_model_config, tiny_targets


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Targets, held-out targets and models."""
    folder = tmp_path_factory.mktemp("data")
    tiny_targets(folder)
    tiny_targets(folder / "heldout", clips=5, rows_each=1)
    tiny_model_config(folder)
    return folder


@pytest.fixture(scope="session")
def alone(data) -> Path:
    """A run of one process with the Hugging Face backbone."""
    done = run(data, data, 1)
    assert done.returncode == 0, done.stderr[-2000:]
    return data
