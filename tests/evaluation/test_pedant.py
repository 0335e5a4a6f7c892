"""PEDANT with a small classifier written in joblib's format, scored by hand, and the handling of its files."""

import hashlib
import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.sparse import diags
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from nemo_desta.evaluation import pedant

QUESTION = "who wrote the book?"


def write_classifier(folder: Path) -> dict[str, str]:
    """Two files as scikit-learn and joblib write them. Only the words "rain" (wrong) and "sun" (right) and the recall count."""
    vectorizer = TfidfVectorizer()
    vectorizer.vocabulary_ = {"rain": 0, "sun": 1, "cls": 2}
    vectorizer._tfidf = SimpleNamespace(_idf_diag=diags([2.0, 1.0, 1.0], format="csr"))
    model = SGDClassifier()
    model.coef_ = np.array([[3.0, -3.0, 0.0, 0.0, 0.0, -4.0]])
    model.intercept_ = np.array([1.0])
    model.classes_ = np.array(["correct", "incorrect"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, thing in (("lr_classifier", model), ("tf-idf_vectorizer", vectorizer)):
        joblib.dump(thing, folder / name)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("lr_classifier", "tf-idf_vectorizer")}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with the small classifier, an empty cache, and a contractions library that knows one."""
    monkeypatch.setenv("NEMO_DESTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pedant, "FILES", write_classifier(tmp_path / "qa_metrics" / "classifier"))
    monkeypatch.setitem(sys.modules, "contractions", SimpleNamespace(fix=lambda text: text.replace("dont", "do not"), __spec__=SimpleNamespace()))
    pedant.unavailable.cache_clear()
    pedant._classifier.cache_clear()
    yield tmp_path
    pedant.unavailable.cache_clear()
    pedant._classifier.cache_clear()


def test_a_reference_inside_the_answer_is_right(checkout: Path) -> None:
    pedant.fetch(checkout)
    assert pedant.agrees("The Moon!", "it is, of course, the moon.", QUESTION)
    assert pedant.agrees("a the", "anything", QUESTION)  # nothing is left of the reference


def test_the_classifier_by_hand(checkout: Path) -> None:
    pedant.fetch(checkout)
    # "cls ... sep" gives the word cls once; weights 0 there. Right where the decision 1 - 4 recall + 3 rain - 3 sun is at most 0 (words over their norm).
    assert not pedant.agrees("jane doe", "john", QUESTION)  # 1 - 0
    assert pedant.agrees("jane doe", "doe smith", QUESTION)  # recall 1/2: 1 - 2
    assert not pedant.agrees("jane ann doe roe poe", "doe", QUESTION)  # recall 1/5: 1 - 0.8
    assert pedant.agrees("jane", "sun", QUESTION)  # 1 - 3 / sqrt(2)
    assert not pedant.agrees("jane doe", "doe rain", QUESTION)  # 1 - 2 + 3 * 2 / sqrt(5)
    assert pedant.agrees("do not x", "dont", QUESTION)  # contractions are written out: recall 2/3


def test_files_that_are_missing_or_others_are_a_sentence_with_a_remedy(checkout: Path) -> None:
    with pytest.raises(pedant.PedantUnavailableError, match=r"tools/fetch_pedant\.py"):
        pedant.agrees("a", "b", "c")
    (checkout / "qa_metrics" / "classifier" / "lr_classifier").write_bytes(b"another release")
    with pytest.raises(ValueError, match="lr_classifier has the SHA-256"):
        pedant.fetch(checkout)
    assert not list(pedant.classifier_dir().iterdir())


def test_without_the_library_it_says_what_to_install(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pedant.fetch(checkout)
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "contractions" else find(name, *args))
    pedant.unavailable.cache_clear()
    assert "pip install -e '.[voicebench]'" in str(pedant.unavailable())


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", "harm"],)


def test_reading_runs_no_foreign_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(pickle.dumps(_Harmful()))
    pedant._read(tmp_path / "x")
    assert not (tmp_path / "harm").exists()


def test_the_reader_gives_what_joblib_gives(tmp_path: Path) -> None:
    files = write_classifier(tmp_path)
    assert set(files) == {"lr_classifier", "tf-idf_vectorizer"}
    model, read = joblib.load(tmp_path / "lr_classifier"), pedant._read(tmp_path / "lr_classifier")
    np.testing.assert_array_equal(read.coef_, model.coef_)
    assert list(read.classes_) == list(model.classes_)
