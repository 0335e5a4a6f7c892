"""Parity checks of a bundle: every part that this machine can run, against what PyTorch said (``reference.npz``)."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_desta.export import verify_vllm
from nemo_desta.export.bundle import changed_files, read_manifest
from nemo_desta.export.features import FeatureConfig, Features
from nemo_desta.export.reference import FILE, NEW_TOKENS, Reference, messages, questions, transcript
from nemo_desta.export.runtime import CPU, AudioTower, OnnxDecoder
from nemo_desta.export.settings import Dtype

logger = logging.getLogger(__name__)

FEATURES_LIMIT = 2e-3  # PyTorch computes the transform in float32, whose rounding shows in bins far below the loudest; the mean is held to 1e-5
FEATURES_MEAN_LIMIT = 1e-5
LOGITS_LIMIT = {Dtype.float32: 1e-4, Dtype.float16: 1e-2, Dtype.bfloat16: 5e-2}  # Euclidean norm of the difference over that of PyTorch's logits
QUANTISED_LOGITS_LIMIT = 0.5


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was compared.
        ok: None where this machine cannot tell.
        detail: figures, or the reason.
        figures: for the manifest.
    """

    name: str
    ok: bool | None
    detail: str
    figures: dict[str, Any]


def verify(bundle: Path, batches: Sequence[int] = (1, 2, 3, 5)) -> list[Check]:
    """Run every check that a bundle has files for.

    Args:
        bundle: its directory.
        batches: batch sizes of the audio tower.

    Raises:
        ValueError: it is no bundle.
    """
    manifest = read_manifest(bundle)
    changed = changed_files(bundle, manifest)
    files = Check("files", not changed, f"changed or missing: {', '.join(changed[:5])}" if changed else "as the manifest says", {"changed": len(changed)})
    return [files] if changed else [files, *parity(bundle, manifest["settings"], batches)]


def parity(bundle: Path, settings: dict[str, Any], batches: Sequence[int], *, staged: bool = False) -> list[Check]:
    """The numerical checks.

    Args:
        bundle: its directory.
        settings: the export's configuration.
        batches: batch sizes of the audio tower.
        staged: the bundle is being written: a vLLM that fails is told and does not cost the other parts.
    """
    reference, dtype = Reference.load(bundle / FILE), Dtype(settings["dtype"])
    quantised = settings.get("quantization") is not None
    steps: list[tuple[str, Callable[[], list[Check]]]] = [
        ("audio/model.onnx", lambda: [_features(bundle, reference), tower_check(bundle, reference, dtype, batches)]),
        ("llm/onnx/model.onnx", lambda: [decoder_check(bundle, reference, dtype)]),
        ("llm/trtllm_ckpt/config.json", lambda: [_trtllm(bundle, reference, dtype, quantised)]),
        ("audio/rtx", lambda: [_engines(bundle)]),
        ("vllm/config.json", lambda: [vllm_check(bundle, reference, dtype, staged=staged)]),
    ]
    return [check for path, run in steps if (bundle / path).exists() for check in run()]


def _features(bundle: Path, reference: Reference) -> Check:
    features = Features(FeatureConfig.load(bundle / "audio" / "preprocessor_config.json"))
    got = [features([clip])[0][0] for clip in reference.clips]
    shapes = all(g.shape == w.shape for g, w in zip(got, reference.features, strict=True))
    if not shapes:
        return Check("NumPy features", False, "numbers of frames differ", {})
    differences = [np.abs(g - w) for g, w in zip(got, reference.features, strict=True)]
    largest, mean = max(float(d.max()) for d in differences), float(np.mean([d.mean() for d in differences]))
    ok = largest <= FEATURES_LIMIT and mean <= FEATURES_MEAN_LIMIT
    return Check("NumPy features", ok, f"largest difference {largest:.1e}, mean {mean:.1e}", {"max_abs": largest, "mean_abs": mean})


def tower_check(bundle: Path, reference: Reference, dtype: Dtype, batches: Sequence[int], providers: Sequence[Any] = CPU) -> Check:
    """The ONNX tower's vectors of the reference's clips, in batches of several sizes."""
    from nemo_desta.export.onnx_tower import compare

    if dtype is Dtype.bfloat16:
        return Check("audio tower, ONNX Runtime", None, "ONNX Runtime has no bfloat16 on a CPU: check on a GPU", {})
    tower, got, want = AudioTower(bundle, providers=providers), [], []
    for start, size in enumerate(batches):
        chosen = [(start + i) % len(reference.clips) for i in range(size)]
        got.append(tower([reference.clips[i] for i in chosen]))
        want.append(reference.embeds_CQH[chosen])
    result = compare(got, want, dtype, batches)
    detail = f"largest difference {result.max_abs:.1e}, relative {result.relative:.1e} at batches {', '.join(map(str, batches))} (limit {result.limit:.0e})"
    figures = {"ort_max_abs": result.max_abs, "ort_rel": result.relative, "batch_sizes": list(batches), "limit": result.limit}
    return Check("audio tower, ONNX Runtime", result.holds, detail, figures)


def decoder_check(bundle: Path, reference: Reference, dtype: Dtype, providers: Sequence[Any] = CPU) -> Check:
    """Greedy tokens from audio, through tower and decoder, all prompts as one left-padded batch."""
    decoder, audio_CQH = OnnxDecoder(bundle, providers=providers), AudioTower(bundle, providers=providers)(reference.clips)
    return answers_check("ONNX decoder from audio", decoder, audio_CQH, reference, dtype, rows=len(reference.prompts))


def answers_check(name: str, decoder: OnnxDecoder, audio_CQH: Any, reference: Reference, dtype: Dtype, rows: int) -> Check:
    """Logits and greedy tokens of a decoder against PyTorch's.

    Args:
        name: of the check.
        decoder: on whatever runs it.
        audio_CQH: vectors of the reference's clips.
        reference: of the bundle.
        dtype: format whose limits hold.
        rows: prompts in a left-padded batch.
    """
    longest, logits, got = max(map(len, reference.answers)), [], []
    for start in range(0, len(reference.prompts), rows):
        embeds, mask = decoder.embed(reference.prompts[start : start + rows], audio_CQH)
        logits.append(decoder.step(embeds, mask, None)[0])
        got += decoder.greedy(embeds, mask, longest)
    distance = relative(np.concatenate(logits), reference.logits_PV)
    equal = sum(g == w for g, w in zip(got, reference.answers, strict=True))
    exact = Dtype.float32 is dtype and reference.llm_dtype == dtype
    ok = distance <= _logits_limit(dtype, reference) and (not exact or equal == len(got))
    detail = f"greedy answers equal {equal} of {len(got)}, logits relative {distance:.1e}"
    return Check(name, ok, detail, {"answers_equal": equal, "answers": len(got), "logits_rel": distance})


def _trtllm(bundle: Path, reference: Reference, dtype: Dtype, quantised: bool) -> Check:
    """Logits from the written tensors alone, with PyTorch's audio vectors in the prompt table's place."""
    import torch

    from nemo_desta.export.splice import splice
    from nemo_desta.export.trtllm_forward import WrittenCheckpoint

    written = WrittenCheckpoint(bundle / "llm" / "trtllm_ckpt")
    vocabulary, rows = written.config["vocab_size"], []
    for prompt in reference.prompts:
        spliced = splice(prompt.input_ids, prompt.audio_spans, reference.embeds_CQH[list(prompt.clips)], vocabulary)
        ids = torch.from_numpy(spliced.input_ids).long()
        embeds_TH = written.embed(ids.where(ids < vocabulary, 0))
        embeds_TH[ids >= vocabulary] = torch.from_numpy(spliced.prompt_table).float()[ids[ids >= vocabulary] - vocabulary]
        rows.append(written.logits(embeds_TH)[-1].numpy())
    got = np.stack(rows)
    distance, agree = relative(got, reference.logits_PV), int((got.argmax(1) == reference.logits_PV.argmax(1)).sum())
    limit = QUANTISED_LOGITS_LIMIT if quantised else _logits_limit(dtype, reference)
    exact = Dtype.float32 is dtype and reference.llm_dtype == dtype and not quantised
    ok = distance <= limit and (not exact or agree == len(got))
    detail = f"plain forward pass from its tensors: logits relative {distance:.1e}, next token equal {agree} of {len(got)}"
    return Check("TensorRT-LLM checkpoint", ok, detail, {"logits_rel": distance, "next_token_equal": agree, "prompts": len(got)})


def vllm_check(bundle: Path, reference: Reference, dtype: Dtype, *, staged: bool = False) -> Check:
    """Prompts and greedy answers of the reference's conversations in vLLM. One that cannot be started or is too slow says nothing about the bundle and is left
    out; one that cannot run the model fails the check, but no export."""
    if verify_vllm.interpreter() is None:
        return Check("vLLM", None, verify_vllm.MISSING, {})
    longest = max(len(prompt.input_ids) for prompt in reference.prompts) + NEW_TOKENS
    asked = [_as_chat(question, clips, reference) for question, clips in questions(len(reference.clips))]
    try:
        said = verify_vllm.ask(bundle / "vllm", dtype.value, asked, new_tokens=NEW_TOKENS, max_length=longest)
    except ValueError as error:
        logger.warning("vLLM gave no answers: %s", error)
        words = _in_a_row(str(error).replace(f"{bundle.absolute()}/", ""))
        failed = isinstance(error, verify_vllm.RejectedError) and not staged
        return Check("vLLM", False, words, {}) if failed else Check("vLLM", None, f"left out: {words}", {})
    prompts = sum(got == list(want.input_ids) for got, want in zip(said["prompts"], reference.prompts, strict=True))
    answers = sum(got == want for got, want in zip(said["answers"], reference.answers, strict=True))
    exact = Dtype.float32 is dtype and reference.llm_dtype == dtype
    count = len(reference.prompts)
    detail = f"vLLM {said['version']}: token ids equal in {prompts} of {count} prompts and {answers} of {count} greedy answers"
    figures = {"prompts_equal": prompts, "answers_equal": answers, "answers": count, "vllm": said["version"]}
    return Check("vLLM", prompts == count and (not exact or answers == count), detail, figures)


def _in_a_row(words: str, most: int = 600) -> str:
    """Words of another program as a row of a table: their beginning and end, on one line."""
    line = " ".join(words.split())
    return line if len(line) <= most else f"{line[: most // 3]} ... {line[-2 * most // 3 :]}"


def _as_chat(question: str, clips: Sequence[int], reference: Reference) -> list[dict[str, Any]]:
    """A conversation of the reference with its clips as parts of the user's turn."""
    *turns, user = messages(question, clips)
    sounds = [verify_vllm.sound(reference.clips[i], transcript=transcript(i)) for i in clips]
    return [*turns, {**user, "content": [*sounds, {"type": "text", "text": user["content"]}]}]


def _engines(bundle: Path) -> Check:
    engines = sorted([*(bundle / "audio" / "rtx").glob("*.engine"), *(bundle / "llm" / "onnx" / "rtx").glob("*.engine")])
    sizes = {path.relative_to(bundle).as_posix(): path.stat().st_size for path in engines}
    detail = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
    return Check("TensorRT-RTX engines", None, f"built ({detail}); running them needs a GPU (--gpu)", {"bytes": sizes})


def _logits_limit(dtype: Dtype, reference: Reference) -> float:
    """That of the coarser of the two formats compared."""
    return max(LOGITS_LIMIT[dtype], LOGITS_LIMIT[Dtype(reference.llm_dtype)])


def relative(got: Any, want: Any) -> float:
    """Euclidean norm of the difference over that of what is wanted."""
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64)))


def as_manifest(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as the manifest holds them."""
    return {c.name: {"ok": c.ok, "detail": c.detail, **c.figures} for c in checks}


def audio_contract(bundle: Path) -> dict[str, Any]:
    """``audio/config.json`` of a bundle."""
    contract: dict[str, Any] = json.loads((bundle / "audio" / "config.json").read_text(encoding="utf-8"))
    return contract
