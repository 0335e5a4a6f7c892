"""What every test starts from: no network hubs, no wandb, one CPU thread a worker, and the rules of the marks."""

import os

# Before any library reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Workers of pytest-xdist share the cores; so do the ranks that distributed tests spawn.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else str(os.cpu_count() or 1))

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests on a machine without a GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def assets_dir() -> Path:
    """The asset cache; the test is skipped where it does not exist (a failure under CI=true)."""
    from nemo_desta.assets import cache_dir

    directory = cache_dir()
    if not directory.is_dir():
        missing(["the asset cache"])
    return directory


@pytest.fixture(scope="session")
def asset() -> Callable[..., dict[str, Path]]:
    """Function: names of assets -> their directories.

    Of the ci tier and the models of the recipe, missing ones skip the test, or fail it under CI=true. Others are never fetched by a test.
    """
    from nemo_desta import assets

    def get(*names: str) -> dict[str, Path]:
        beyond = [name for name in names if name not in (*assets.TIERS["ci"], *assets.RECIPE_MODELS) and not assets.is_cached(name)]
        if beyond:
            pytest.skip(f"needs {', '.join(beyond)}, not part of the ci tier: run 'make test-assets', or tools/fetch_assets.py with these names")
        try:
            return assets.fetch(names, progress=False)
        except assets.AssetError as error:
            missing(names, str(error))
            raise  # not reached: missing() ends the test

    return get


def missing(names: Sequence[str], reason: str = "") -> None:
    """End the running test for want of assets: skipped for a developer, failed in CI, where `make test` fetched them before."""
    sentence = f"needs {', '.join(names)}: run 'python tools/fetch_assets.py fetch --tier ci --models' with a network. {reason}".strip()
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)
