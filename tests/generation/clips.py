"""Cuts with attributes but without sound: target generation reads no audio."""

from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from transformers import AutoModelForCausalLM

from nemo_desta.config import DestaConfig, GenerationConfig, ModelConfig, Precision
from nemo_desta.corpora.manifests import write_cuts
from nemo_desta.generation.engines.base import STOP, Completion
from nemo_desta.generation.plan import TargetRow, make_messages, row_id
from nemo_desta.seed.prompts import Prompt
from tests.tiny import tiny_llm

LANGUAGES = ["English"] * 12 + ["Spanish"] * 3 + ["Czech"]


def clip(name: str, domain: str, *, text: str | None = None, language: str | None = None, gender: str | None = None, **attributes: Any) -> MonoCut:
    """One cut of contract C1."""
    recording = Recording(id=name, sources=[AudioSource("file", [0], f"{name}.flac")], sampling_rate=16000, num_samples=32000, duration=2.0)
    source = SupervisionSegment(f"{name}-src", name, 0.0, 2.0, text=text, language=language, gender=gender, speaker="s", custom=attributes)
    return MonoCut(id=name, start=0.0, duration=2.0, channel=0, supervisions=[source], recording=recording, custom={"dataset": "toy", "domain": domain})


def corpus(times: int = 4) -> CutSet:
    """Mostly speech, mostly English, mostly male; a few sounds; very little music."""
    cuts = [
        clip(f"speech-{n}-{i}", "speech", text=f"take number {n}", language=language, gender="female" if i % 8 == 0 else "male", pitch="high")
        for n in range(times)
        for i, language in enumerate(LANGUAGES)
    ]
    cuts += [clip(f"sound-{i}", "sound", sound=f"{name} noise", sound_class=name) for i, name in enumerate(["dog", "dog", "dog", "rain"])]
    return CutSet.from_cuts([*cuts, clip("music-0", "music", genre="polka", tempo="fast"), clip("music-1", "music", genre="tango", tempo="slow")])


def lively_llm(folder: Path, heads: int = 4) -> Path:
    """A tiny random Llama whose layers do more than pass the last token on."""
    tiny_llm(folder, heads=heads)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.mul_(10.0 if weight.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    return folder


def config(root: Path, llm: Path | str = "none", **generation: Any) -> DestaConfig:
    """A run below `root`, whose corpus is written."""
    path = root / "corpus" / "cuts_train.jsonl.gz"
    if not path.exists():
        path.parent.mkdir(parents=True)
        write_cuts(path, corpus())
    settings: dict[str, Any] = {"rows": 40, "temperature": 0.0, "max_new_tokens": 6, "batch_tokens": 700, **generation}
    model = ModelConfig(llm=str(llm), encoder="none", llm_precision=Precision.fp32)
    return DestaConfig(name="toy", run_dir=str(root), model=model, generation=GenerationConfig(**settings))


def row(attribute: str | None = "gender", question: str = "Is the speaker male or female?", **attributes: str) -> TargetRow:
    """A row about a clip with these attributes."""
    prompt = Prompt("p", question, "any", "attribute" if attribute else "description", attribute, ())
    return TargetRow(row_id("c", "p", 0), "c", prompt, make_messages(question, ""), "rendered", "[00:00-00:02]", attributes)


def answer(text: str, finish_reason: str = STOP) -> Completion:
    """A completion."""
    return Completion(text, finish_reason, len(text.split()) + 1)
