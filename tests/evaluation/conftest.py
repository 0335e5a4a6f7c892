import pytest
from lhotse import MonoCut

from nemo_desta.evaluation.benchmarks.heldout import HeldOut, HeldOutSettings
from tests.evaluation.toys import make_cuts


@pytest.fixture(scope="session")
def cuts(tmp_path_factory) -> list[MonoCut]:
    return make_cuts(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def benchmark(cuts) -> HeldOut:
    return HeldOut(cuts, cuts, HeldOutSettings(bootstrap=50))
