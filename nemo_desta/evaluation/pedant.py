"""PEDANT (qa_metrics 0.2.17): whether a short answer agrees with a reference. VoiceBench's SD-QA counts it beside its judge.

The release downloads its classifier from the head of a branch at every construction and unpickles it with scikit-learn 1.3.2, which needs numpy 1. Here
the two files are those of one commit, kept by SHA-256 in the asset cache (``python tools/fetch_pedant.py``), never fetched while scoring, and read as
data: an unpickler that knows numpy arrays and plain containers takes the vocabulary, the inverse document frequencies and the weights. What is computed is
the release's own formula: right if the reference stands in the answer, else a linear classifier of TF-IDF words and the overlap of words.
"""

import math
import pickle
import re
import shutil
import string
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from nemo_desta.assets.cache import cache_dir, sha256_of, subdirectory

RELEASE = "0.2.17"  # of qa_metrics; later releases give other scores
COMMIT = "26623c6ca3313e7a58c48fd6ce2b8579eb0c742e"
URL = f"https://github.com/zli12321/qa_metrics/raw/{COMMIT}/qa_metrics/classifier"
FILES = {
    "lr_classifier": "9c3dd5998745ece1cfb6cb16b953358f794e8716d63a08f3b212d8bc32a59b8b",
    "tf-idf_vectorizer": "e886c9ba3ddb15a4b693b075dfe19cfad36dc74e7f8f195b8d9e98e989f2ba4f",
}
_TOKEN = re.compile(r"\b\w\w+\b")  # of the vectorizer
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class PedantUnavailableError(ValueError):
    """The classifier's files or the contractions library are not here."""


@dataclass(frozen=True)
class Classifier:
    """The linear classifier.

    Attributes:
        vocabulary: word -> column.
        idf: inverse document frequency, [words].
        weights: [words + 3]; the last three are those of F1, precision and recall.
        bias: of the decision.
        positive: whether a positive decision means that the answer is right.
    """

    vocabulary: Mapping[str, int]
    idf: np.ndarray
    weights: np.ndarray
    bias: float
    positive: bool

    def is_right(self, text: str, overlap: tuple[float, float, float]) -> bool:
        """The decision on a text and its three overlap figures."""
        counts = Counter(self.vocabulary[word] for word in _TOKEN.findall(text.lower()) if word in self.vocabulary)
        values = {column: count * self.idf[column] for column, count in counts.items()}
        norm = math.sqrt(sum(value * value for value in values.values())) or 1.0
        decision = self.bias + sum(self.weights[column] * value / norm for column, value in values.items())
        decision += sum(weight * figure for weight, figure in zip(self.weights[-3:], overlap, strict=True))
        return bool((decision > 0) == self.positive)


def agrees(reference: str, answer: str, question: str) -> bool:
    """Whether an answer agrees with the reference, as ``PEDANT().evaluate([reference], answer, question)`` says.

    Raises:
        PedantUnavailableError: see `unavailable`.
    """
    if problem := unavailable():
        raise PedantUnavailableError(problem)
    wanted, given = _plain(reference), _plain(answer)
    if wanted in given:
        return True
    text = f"[CLS] {given} [SEP] {wanted} [SEP] {_expanded(_plain(question))} [SEP]"
    return _classifier().is_right(text, _overlap(given, wanted))


def classifier_dir() -> Path:
    """Where the files lie, in the asset cache."""
    return cache_dir() / "pedant"


@cache
def unavailable() -> str | None:
    """Why PEDANT cannot be computed and what to do, in a sentence; None where it can."""
    import importlib.util

    if importlib.util.find_spec("contractions") is None:
        return "PEDANT (SD-QA of VoiceBench) needs the contractions library: pip install -e '.[voicebench]'"
    for name, sha256 in FILES.items():
        path = classifier_dir() / sha256
        if not path.is_file() or sha256_of(path) != sha256:
            return f"PEDANT (SD-QA of VoiceBench) needs its classifier ({name}), which is not in {classifier_dir()}: run `python tools/fetch_pedant.py`"
    return None


def fetch(checkout: Path | None = None, *, timeout: float = 60.0) -> Path:
    """Put the classifier's files into the cache, from a checkout of zli12321/qa_metrics or from GitHub.

    Returns:
        Their directory.

    Raises:
        ValueError: a file is not the pinned one.
        OSError: a file is not there, or GitHub cannot be reached.
    """
    target = subdirectory("pedant")
    for name, sha256 in FILES.items():
        partial = target / f".{sha256}"
        if checkout is not None:
            shutil.copyfile(checkout / "qa_metrics" / "classifier" / name, partial)
        else:
            with urllib.request.urlopen(f"{URL}/{name}", timeout=timeout) as response, partial.open("wb") as file:
                shutil.copyfileobj(response, file)
        if (found := sha256_of(partial)) != sha256:
            partial.unlink()
            raise ValueError(f"{name} has the SHA-256 {found} instead of {sha256}: give a checkout of zli12321/qa_metrics at commit {COMMIT}")
        partial.replace(target / sha256)
    unavailable.cache_clear()
    _classifier.cache_clear()
    return target


def _plain(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces; twice, as the release does it ("a the" may leave a new article)."""
    for _ in range(2):
        text = " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
    return text


def _expanded(text: str) -> str:
    import contractions

    return str(contractions.fix(text))


def _overlap(given: str, wanted: str) -> tuple[float, float, float]:
    """F1, precision and recall of the sets of words (the release calls the share of `given` precision)."""
    first, second = (set(_plain(_expanded(_plain(text))).split()) for text in (given, wanted))
    both = len(first & second)
    precision = both / len(first) if first else 0.0
    recall = both / len(second) if second else 0.0
    return (2 * precision * recall / (precision + recall) if both else 0.0), precision, recall


@cache
def _classifier() -> Classifier:
    model, vectorizer = (_read(classifier_dir() / sha256) for sha256 in FILES.values())
    return Classifier(
        vocabulary=vectorizer.vocabulary_,
        idf=vectorizer._tfidf._idf_diag.data,
        weights=model.coef_[0],
        bias=float(model.intercept_[0]),
        positive=str(model.classes_[1]) == "correct",
    )


class _Plain:
    """Stands for an object of a foreign class: its attributes and nothing else."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _ArrayHeader(_Plain):
    """joblib's note that the bytes of an array follow."""


class _Reader(pickle._Unpickler):  # type: ignore[name-defined]  # the one in Python, whose steps can be extended
    """Reads joblib's files without importing a foreign class: numpy's dtype is the only thing that is called."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return _ArrayHeader
        return np.dtype if (module, name) == ("numpy", "dtype") else type(name, (_Plain,), {})

    def load_build(self) -> None:
        super().load_build()  # type: ignore[misc]
        if isinstance(self.stack[-1], _ArrayHeader):
            self.stack[-1] = self._array(self.stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, header: Any) -> Any:
        if header.dtype.hasobject:
            return _Reader(self.file).load()
        if getattr(header, "numpy_array_alignment_bytes", None) is not None:
            self.file.read(self.file.read(1)[0])
        size = math.prod(header.shape) * header.dtype.itemsize
        return np.frombuffer(self.file.read(size), header.dtype).reshape(header.shape, order=header.order)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return _Reader(file).load()
