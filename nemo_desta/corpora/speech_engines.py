"""Two speech synthesisers that need no system package: Kokoro-82M (ONNX) and eSpeak NG (shared library of a wheel, through ctypes).

Kokoro speaks phonemes; eSpeak NG turns text into them. Both are deterministic: the same arguments give the same samples.
"""

import ctypes
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nemo_desta.corpora.audio import AudioError

KOKORO_RATE = 24_000  # Hz
_PAD_SECONDS = 0.1  # silence around a synthesised clip

# Language -> file of the voice below espeak-ng-data/lang.
ESPEAK_LANGUAGES = {
    "en-us": "gmw/en-US",
    "en-gb": "gmw/en",
    "en-scotland": "gmw/en-GB-scotland",
    "en-caribbean": "gmw/en-029",
    "es": "roa/es",
    "es-mx": "roa/es-419",
    "fr": "roa/fr",
    "it": "roa/it",
    "pt": "roa/pt-BR",
    "ru": "zle/ru",
    "cs": "zlw/cs",
    "nl": "gmw/nl",
}

# Where Kokoro writes one symbol for what eSpeak NG writes as two (facts of the model's phoneme table).
_ENGLISH_SYMBOLS = {"aɪ": "I", "aʊ": "W", "eɪ": "A", "oʊ": "O", "əʊ": "Q", "ɔɪ": "Y", "ɚ": "əɹ", "ɐ": "ə"}
_SHARED_SYMBOLS = {"dʒ": "ʤ", "tʃ": "ʧ"}
_OTHER_SYMBOLS = {"ts": "ʦ", "dz": "ʣ"}  # English keeps them apart
_MARKS = re.compile(r"\s*([,.;:!?—…]+)\s*")


class _Espeak:
    """The library's global state: there is one of it in a process."""

    SYNCHRONOUS, PHONEMES_IPA, UTF8 = 2, 0x02, 1
    RATE, VOLUME, PITCH = 1, 2, 3

    def __init__(self, root: Path) -> None:
        folder = root / "espeakng_loader"
        libraries = sorted(folder.glob("*espeak-ng*.so*")) + sorted(folder.glob("*espeak-ng*.dylib"))
        if not libraries:
            raise ValueError(f"{root} holds no eSpeak NG library: is it the unzipped wheel espeakng-loader? Fetch the asset espeak-ng again")
        self._lib: Any = ctypes.CDLL(str(libraries[0]))
        self._callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._declare()
        self._data = folder / "espeak-ng-data"
        self.rate = self._lib.espeak_Initialize(self.SYNCHRONOUS, 0, str(self._data).encode(), 0x8000)
        if self.rate <= 0:
            raise RuntimeError(f"eSpeak NG cannot read its data below {folder}: fetch the asset espeak-ng again")
        self._chunks: list[np.ndarray] = []
        self._callback = self._callback_type(self._receive)  # kept alive as long as the library may call it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _declare(self) -> None:
        lib = self._lib
        lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        lib.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        lib.espeak_SetSynthCallback.argtypes = [self._callback_type]
        size = ctypes.c_size_t
        lib.espeak_Synth.argtypes = [ctypes.c_char_p, size, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p]
        lib.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def set_voice(self, name: str) -> None:
        """Choose a voice by the name of its file, with ``+variant`` where wanted."""
        variant = name.partition("+")[2]
        # The library speaks with the plain voice where a variant does not exist.
        unknown = bool(variant) and not (self._data / "voices" / "!v" / variant).is_file()
        if unknown or self._lib.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {name!r}")

    def phonemes(self, text: str) -> str:
        """IPA of a text without punctuation."""
        buffer = ctypes.create_string_buffer(text.encode())
        pointer = ctypes.c_void_p(ctypes.addressof(buffer))
        parts = []
        while pointer.value:
            parts.append((self._lib.espeak_TextToPhonemes(ctypes.byref(pointer), self.UTF8, self.PHONEMES_IPA) or b"").decode())
        return " ".join(part.strip() for part in parts if part.strip())

    def synthesise(self, text: str, rate: int, pitch: int) -> np.ndarray:
        """Samples ``[T]`` float32 at ``self.rate`` Hz."""
        self._chunks.clear()
        self._lib.espeak_SetParameter(self.RATE, rate, 0)
        self._lib.espeak_SetParameter(self.PITCH, pitch, 0)
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, self.UTF8, None, None)
        if not self._chunks:
            raise AudioError("empty", f"eSpeak NG said nothing for {text!r}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768.0


@lru_cache(maxsize=1)
def _espeak(root: str) -> _Espeak:
    return _Espeak(Path(root))


def espeak_voice(language: str, variant: str | None = None) -> str:
    """Name of a voice for eSpeak NG.

    Args:
        language: Key of `ESPEAK_LANGUAGES`.
        variant: Voice variant such as "f2", or None.

    Raises:
        ValueError: Unknown language.
    """
    if language not in ESPEAK_LANGUAGES:
        raise ValueError(f"no eSpeak NG voice for {language!r}; known are {sorted(ESPEAK_LANGUAGES)}")
    return ESPEAK_LANGUAGES[language] + (f"+{variant}" if variant else "")


def phonemise(espeak_dir: Path, text: str, language: str) -> str:
    """Phonemes of a text as Kokoro writes them, with the text's punctuation.

    Args:
        espeak_dir: Unzipped wheel ``espeakng-loader``.
        text: One or more sentences.
        language: Key of `ESPEAK_LANGUAGES`.

    Returns:
        A string of phoneme symbols.
    """
    engine = _espeak(str(espeak_dir))
    engine.set_voice(espeak_voice(language))
    out = []
    for index, part in enumerate(_MARKS.split(text)):
        out.append(part + " " if index % 2 else engine.phonemes(part) if part.strip() else "")
    ipa = re.sub("[\u0361^-]", "", "".join(out)).strip()  # tie bars and liaison marks
    symbols = _SHARED_SYMBOLS | (_ENGLISH_SYMBOLS if language.startswith("en") else _OTHER_SYMBOLS)
    for source, target in symbols.items():
        ipa = ipa.replace(source, target)
    return ipa.replace("ː", "") if language == "en-us" else ipa


def speak_espeak(espeak_dir: Path, text: str, language: str, variant: str | None, rate: int, pitch: int) -> tuple[np.ndarray, int]:
    """Synthesise a clip with eSpeak NG.

    Args:
        espeak_dir: Unzipped wheel ``espeakng-loader``.
        text: What to say.
        language: Key of `ESPEAK_LANGUAGES`.
        variant: Voice variant ("m3", "f2"), or None.
        rate: Words a minute, 80..450.
        pitch: 0..99; 50 is the voice's own.

    Returns:
        Samples ``[T]`` float32 and their rate in Hz.
    """
    engine = _espeak(str(espeak_dir))
    engine.set_voice(espeak_voice(language, variant))
    return _padded(engine.synthesise(text, rate, pitch), engine.rate), engine.rate


class _Kokoro:
    """The ONNX session, its phoneme table and the voices read so far."""

    def __init__(self, root: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # One thread: clips are rendered in parallel processes, and sums then do not depend on the number of cores.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        models = sorted(root.glob("*.onnx"))
        if not models:
            raise ValueError(f"{root} holds no ONNX model: fetch the asset kokoro-82m again")
        self._session = onnxruntime.InferenceSession(str(models[0]), options, providers=["CPUExecutionProvider"])
        self._names = [i.name for i in self._session.get_inputs()]
        table = json.loads((root / "vocab.json").read_text(encoding="utf-8"))
        self._vocab: dict[str, int] = table.get("vocab", table)
        self._root = root

    @lru_cache(maxsize=8)  # noqa: B019  (one instance lives as long as the process)
    def _style(self, voice: str) -> np.ndarray:
        path = self._root / "voices" / f"{voice}.bin"
        if not path.is_file():
            raise ValueError(f"Kokoro has no voice {voice!r} below {self._root / 'voices'}")
        return np.fromfile(path, dtype=np.float32).reshape(-1, 1, 256)

    def speak(self, phonemes: str, voice: str, speed: float) -> np.ndarray:
        style = self._style(voice)
        ids = [self._vocab[symbol] for symbol in phonemes if symbol in self._vocab][: len(style) - 1]
        if not ids:
            raise AudioError("empty", f"no phoneme of {phonemes!r} is in Kokoro's table")
        inputs = (np.array([[0, *ids, 0]], dtype=np.int64), style[len(ids)], np.array([speed], dtype=np.float32))
        return np.asarray(self._session.run(None, dict(zip(self._names, inputs, strict=True)))[0], dtype=np.float32).reshape(-1)


@lru_cache(maxsize=1)
def _kokoro(root: str) -> _Kokoro:
    return _Kokoro(Path(root))


def speak_kokoro(kokoro_dir: Path, espeak_dir: Path, text: str, language: str, voice: str, speed: float) -> tuple[np.ndarray, int]:
    """Synthesise a clip with Kokoro.

    Args:
        kokoro_dir: Folder with the ONNX model, ``vocab.json`` and ``voices/``.
        espeak_dir: Unzipped wheel ``espeakng-loader`` (it makes the phonemes).
        text: What to say.
        language: Key of `ESPEAK_LANGUAGES`; it need not be the voice's own, which gives a foreign accent.
        voice: "af_heart", ...
        speed: 1 = the voice's own; 0.5..2.

    Returns:
        Samples ``[T]`` float32 and their rate in Hz.

    Raises:
        ValueError: Unknown voice or language.
    """
    samples = _kokoro(str(kokoro_dir)).speak(phonemise(espeak_dir, text, language), voice, speed)
    return _padded(samples, KOKORO_RATE), KOKORO_RATE


def _padded(samples: np.ndarray, rate: int) -> np.ndarray:
    silence = np.zeros(int(_PAD_SECONDS * rate), dtype=np.float32)
    return np.concatenate([silence, samples, silence])
