import pytest

from nemo_desta.evaluation.benchmarks.base import Judged, Mode
from nemo_desta.evaluation.benchmarks.mmau import Mmau
from nemo_desta.evaluation.verdicts import intervals
from tests.evaluation.made_data import mmau


@pytest.mark.parametrize(("response", "sound"), [("nothing", [0.0, 65.76]), ("A dog", [9.45, 90.55]), ("{gold}", [34.24, 100.0])])
def test_intervals_of_categories_have_the_unit_of_their_figures(tmp_path, response, sound):
    """Wilson's bounds for 0, 1 and 2 right answers of the two sound clips: also a category without a right one is given in per cent."""
    benchmark = Mmau()
    items = benchmark.load(mmau.make(tmp_path), "test-mini")
    texts = [response.format(gold=item.gold) for item in items]
    judged = [Judged(i, text, {}, benchmark.score(i, text, {}, Mode.official)) for i, text in zip(items, texts, strict=True)]
    whole = benchmark.aggregate(judged, Mode.official)
    found = intervals(benchmark, judged, ["test-mini"] * len(items), whole, Mode.official, resamples=50, seed=0)
    assert whole["groups"]["task"]["sound"]["n"] == 2
    assert found["groups"]["task"]["sound"] == pytest.approx(sound, abs=0.01)
