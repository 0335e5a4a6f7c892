"""Transcripts by Whisper for clips whose source gives none.

The paper's pipeline does the same with whisper-large-v3; any Whisper checkpoint in Hugging Face layout works here.
A machine transcript is marked in ``custom["text_source"]``, so that nobody takes it for the source's own words.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from nemo_desta.seed.attributes import SELF_GENERATED

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MAX_SECONDS = 30.0  # Whisper's window
MAX_NEW_TOKENS = 256  # of a transcript; 30 s of fast speech need fewer

# English names of contract C1 -> the names Whisper's tokenizer knows, where they differ from the lower-cased name.
_WHISPER_LANGUAGE = {"mandarin": "chinese", "castilian": "spanish", "flemish": "dutch"}


def needs_transcript(cut: Cut) -> bool:
    """Whether the clip is speech without words: domain speech or mixed, and no source supervision holds text."""
    if (getattr(cut, "custom", None) or {}).get("domain") not in ("speech", "mixed"):
        return False
    return not any(s.text for s in cut.supervisions if (s.custom or {}).get("role") != SELF_GENERATED)


def with_text(cut: Cut, text: str, source: str) -> Cut:
    """Return a copy of the cut whose first source supervision holds `text`; both it and the cut note where the text comes from.

    An empty text (Whisper heard nothing) leaves the cut as it is.
    """
    if not text.strip():
        return cut
    note = {"text_source": source}
    if cut.supervisions:
        first = cut.supervisions[0]
        described = fastcopy(first, text=text.strip(), custom={**(first.custom or {}), **note})
    else:
        described = SupervisionSegment(f"{cut.id}-source", getattr(cut, "recording_id", cut.id), 0.0, cut.duration, text=text.strip(), custom=note)
    return fastcopy(cut, supervisions=[described, *cut.supervisions[1:]], custom={**(cut.custom or {}), **note})


def whisper_language(name: str | None, known: Iterable[str]) -> str | None:
    """Return the language as Whisper names it ("English" -> "english"), or None when it is unknown (Whisper then guesses)."""
    lowered = (name or "").strip().lower()
    lowered = _WHISPER_LANGUAGE.get(lowered, lowered)
    return lowered if lowered in set(known) else None


def _batches(cuts: Sequence[Cut], languages: Sequence[str | None], batch_size: int) -> Iterator[list[int]]:
    """Yield indices of clips that share a language (one decoding prefix a batch), longest first."""
    order = sorted(range(len(cuts)), key=lambda i: (languages[i] or "", -cuts[i].duration, cuts[i].id))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == batch_size or languages[index] != languages[batch[0]]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _load(cut: Cut) -> np.ndarray:
    """Read a clip as mono float32 at 16 kHz, at most 30 s."""
    audio = cut.truncate(duration=min(cut.duration, MAX_SECONDS)).load_audio()
    if cut.sampling_rate != SAMPLE_RATE:
        raise ValueError(f"cut {cut.id!r} is at {cut.sampling_rate} Hz, Whisper needs {SAMPLE_RATE} Hz: prepare the corpus with build_cuts")
    return np.asarray(audio, dtype=np.float32).mean(axis=0)


def _complete_generation_config(model: Any, tokenizer: Any, languages: dict[str, str]) -> None:
    """Tell `generate` the ids of languages and tasks, which converted checkpoints often lack; `languages` is name -> code."""
    settings = model.generation_config
    if getattr(settings, "lang_to_id", None):
        return
    vocabulary = tokenizer.get_vocab()
    settings.lang_to_id = {token: vocabulary[token] for code in languages.values() if (token := f"<|{code}|>") in vocabulary}
    settings.task_to_id = {task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")}
    settings.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    settings.is_multilingual = True


def _decode(model: Any, processor: Any, samples: list[np.ndarray], language: str | None, device: str) -> list[str]:
    import torch

    inputs = processor.feature_extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
    with torch.inference_mode():
        ids = model.generate(
            inputs.input_features.to(device, model.dtype),
            attention_mask=inputs.attention_mask.to(device),
            language=language,
            task="transcribe",
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


def transcribe(cuts: Iterable[Cut], model_dir: str | Path, batch_size: int = 8, device: str = "cpu") -> list[Cut]:
    """Give every speech clip without text a Whisper transcript.

    Args:
        cuts: clips of contract C1 (16 kHz); those that have text, or are no speech, come back unchanged.
        model_dir: a Whisper checkpoint in Hugging Face layout (directory or model id); its last path part names the source.
        batch_size: clips decoded at once; clips of one language go together.
        device: torch device.

    Returns:
        The clips in their order; those transcribed have ``text`` and ``custom["text_source"]`` = the model's name (``whisper-base``).

    Raises:
        ValueError: batch_size below 1, or a clip not at 16 kHz.
        OSError: `model_dir` holds no model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    out = list(cuts)
    wanted = [index for index, cut in enumerate(out) if needs_transcript(cut)]
    if not wanted:
        return out
    from transformers import WhisperForConditionalGeneration, WhisperProcessor
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    processor = WhisperProcessor.from_pretrained(str(model_dir))
    model = WhisperForConditionalGeneration.from_pretrained(str(model_dir)).to(device).eval()
    _complete_generation_config(model, processor.tokenizer, TO_LANGUAGE_CODE)
    source = Path(str(model_dir)).name
    todo = [out[index] for index in wanted]
    languages = [whisper_language(cut.supervisions[0].language if cut.supervisions else None, TO_LANGUAGE_CODE) for cut in todo]
    for batch in _batches(todo, languages, batch_size):
        texts = _decode(model, processor, [_load(todo[i]) for i in batch], languages[batch[0]], device)
        for i, text in zip(batch, texts, strict=True):
            out[wanted[i]] = with_text(todo[i], text, source)
        logger.info("transcribed %d clips (%s) with %s", len(batch), languages[batch[0]] or "language guessed", source)
    return out
