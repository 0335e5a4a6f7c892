"""The vLLM part of a bundle: one directory for ``vllm serve BUNDLE/vllm`` (`nemo_desta.serving.vllm_plugin`).

The LLM's weights are links to those of ``llm/hf``; the tower's lie beside them. ``transcriber/`` holds the whole Whisper model, for clips without words.
"""

import copy
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nemo_desta.export.bundle import link_file
from nemo_desta.export.hf_checkpoint import write_tokenizer
from nemo_desta.export.settings import Dtype
from nemo_desta.export.trtllm_parts import SHARED
from nemo_desta.modules.encoder import resolve_encoder
from nemo_desta.serving.settings import ServeConfig
from nemo_desta.serving.vllm_plugin.config import ARCHITECTURE, MODEL_TYPE, TRANSCRIBER, describe_perception
from nemo_desta.serving.vllm_plugin.prompt import chat_template

if TYPE_CHECKING:
    from nemo_desta.export.source import Source
    from nemo_desta.models import DestaModel

logger = logging.getLogger(__name__)
TOWER_FILE = "perception.safetensors"
SYSTEM_PROMPT = ServeConfig.system_prompt  # the same as that of the library's own server


def write_vllm(bundle: Path, card: dict[str, Any], source: "Source", model: "DestaModel", dtype: Dtype, *, transcriber: bool) -> dict[str, Any]:
    """Make ``vllm/``.

    Args:
        bundle: that holds ``llm/hf``.
        card: ``audio/config.json``.
        source: of the export.
        model: the PyTorch model, its encoder a Whisper.
        dtype: of the tower's weights.
        transcriber: write Whisper, too.

    Returns:
        For the manifest.
    """
    folder, hf = bundle / "vllm", bundle / "llm" / "hf"
    folder.mkdir()
    for path in [*hf.glob("*.safetensors"), hf / "generation_config.json"]:
        link_file(path, folder / path.name)
    _write_tower(folder, model, dtype)
    _write_index(folder)
    wrote = transcriber and _write_transcriber(folder / TRANSCRIBER, source.model_config.encoder)
    _write_config(folder, hf, {**card, "transcriber": wrote}, source, model)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = chat_template(tokenizer.chat_template, card["placeholder_token"], SYSTEM_PROMPT)  # type: ignore[attr-defined]
    write_tokenizer(tokenizer, folder)
    return {"architecture": ARCHITECTURE, "written_for": "vllm 0.32", "transcriber": wrote}


def template_hash() -> str:
    """Of the chat template's own part."""
    return hashlib.sha256(chat_template("", "", None).encode()).hexdigest()


def _write_tower(folder: Path, model: "DestaModel", dtype: Dtype) -> None:
    tensors = {f"perception.{name}": t.detach().to(getattr(torch, dtype.value)).contiguous().cpu() for name, t in model.perception.state_dict().items()}
    save_file(tensors, folder / TOWER_FILE, metadata={"format": "pt"})


def _write_index(folder: Path) -> None:
    """Which tensor lies in which file; vLLM reads no file that it does not name."""
    where: dict[str, str] = {}
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with safe_open(path, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), path.name)
    index = {"metadata": {"total_size": sum(path.stat().st_size for path in files)}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_config(folder: Path, hf: Path, card: dict[str, Any], source: "Source", model: "DestaModel") -> None:
    from transformers import WhisperConfig

    text = json.loads((hf / "config.json").read_text(encoding="utf-8"))
    whisper = WhisperConfig.from_pretrained(str(resolve_encoder(source.model_config.encoder)))
    encoder: Any = model.perception.encoder
    own = {**card, "perception": describe_perception(encoder, whisper, source.model_config.connector)}
    shared = {key: text[key] for key in SHARED if key in text}
    config = {"model_type": MODEL_TYPE, "architectures": [ARCHITECTURE], **shared, "text_config": text, "nemo_desta": own}
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_transcriber(folder: Path, encoder: str) -> bool:
    """Whisper with its decoder and tokenizer; False where the encoder's directory has no tokenizer."""
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    location = resolve_encoder(encoder)
    # Asked for by name: transformers 5 makes an empty tokenizer where there is none.
    if isinstance(location, Path) and not any((location / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        logger.warning("vllm: %s has no tokenizer, so that vLLM cannot transcribe clips: requests bring the words", location)
        return False
    WhisperForConditionalGeneration.from_pretrained(str(location), dtype="auto").save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(location)).save_pretrained(folder)
    return True
