"""Sentences, words and languages, with the libraries of the published checks (NLTK, langdetect), offline and deterministic."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from nemo_desta.assets import cache_dir, fetch
from nemo_desta.assets.catalogue import PACKAGES
from nemo_desta.evaluation.benchmarks.base import Mode

PUNKT_ASSET = "nltk-punkt"
_PUNKT_IN_ASSET = Path("llama_index/core/_static/nltk_cache")
_ENGLISH = "tokenizers/punkt_tab/english"
_SEED = 0


def count_words(text: str) -> int:
    r"""Runs of ``\w``."""
    return len(re.findall(r"\w+", text))


def count_sentences(text: str) -> int:
    """Sentences as Punkt (English) cuts them."""
    return len(_tokenizer().tokenize(text))


def words(text: str) -> list[str]:
    """Tokens as ``nltk.word_tokenize`` gives them: a hyphenated word is one."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [token for sentence in _tokenizer().tokenize(text) for token in tokenizer.tokenize(sentence)]


def is_language(text: str, language: str, mode: Mode) -> bool:
    """Whether langdetect takes the text for that language (ISO 639-1). Text that it cannot judge (no letters) is taken for right, in strict mode for wrong."""
    import langdetect

    langdetect.DetectorFactory.seed = _SEED  # unseeded it gives another answer from run to run
    try:
        return bool(langdetect.detect(text) == language)
    except langdetect.LangDetectException:
        return mode is Mode.official


def punkt_path() -> Path:
    """The directory that holds ``tokenizers/punkt_tab``: one of NLTK's own search path (``NLTK_DATA``), else of the asset cache. Nothing is downloaded.

    Raises:
        ValueError: in neither.
    """
    import nltk

    package = PACKAGES[PUNKT_ASSET]
    asset = cache_dir() / "unpacked" / f"{package.name}-{package.version}" / _PUNKT_IN_ASSET
    for root in (*(Path(entry) for entry in nltk.data.path), asset):
        if (root / _ENGLISH / "ortho_context.tab").is_file():
            return root
    raise ValueError(
        f"counting sentences needs NLTK's Punkt model (tokenizers/punkt_tab), which is neither below {nltk.data.path} nor in the asset cache: "
        f"run `python tools/fetch_assets.py fetch {PUNKT_ASSET}`, or set NLTK_DATA"
    )


def ensure_punkt() -> Path:
    """`punkt_path`, fetched into the asset cache where it is missing: for work that will count sentences at its end, and must not find out there.

    Raises:
        AssetError: it cannot be fetched; the message says why.
    """
    try:
        return punkt_path()
    except ValueError:
        fetch([PUNKT_ASSET])
        return punkt_path()


@cache
def _tokenizer() -> Any:
    """Punkt for English, read from files that hold text only (no pickle)."""
    import nltk
    from nltk.tokenize.punkt import PunktTokenizer

    root = str(punkt_path())
    if root not in nltk.data.path:
        nltk.data.path.append(root)
    return PunktTokenizer("english")
