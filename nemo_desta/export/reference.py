"""What the PyTorch model says, kept in the bundle: so that every engine can be checked on any machine, without the checkpoint.

``reference.npz`` holds clips, their features and vectors, and prompts with the logits behind them and the greedy answers.

Shape suffixes: S samples, M mel bands, L mel frames, Q query slots, H LLM width, V vocabulary.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nemo_desta.data.conversation import AUDIO_LOCATOR, render
from nemo_desta.export.runtime import Prompt

if TYPE_CHECKING:
    from nemo_desta.models import DestaModel

Array = NDArray[Any]
FILE = "reference.npz"
NEW_TOKENS = 16
SYSTEM = "Focus on the audio clips and instructions."
QUESTIONS = ("What do you hear?", "Which language is spoken?", "Describe the sound.")


@dataclass(frozen=True)
class Reference:
    """The content of ``reference.npz``.

    Attributes:
        clips: samples_S of each clip, 16 kHz.
        features: features_ML of each clip, its own frames only.
        embeds_CQH: vectors of the clips, each encoded alone, float32.
        prompts: rendered conversations, the last one without audio.
        logits_PV: behind each prompt, float32.
        answers: greedy continuations, `NEW_TOKENS` long or ending with a stop token.
        llm_dtype: format in which the LLM computed them.
    """

    clips: list[Array]
    features: list[Array]
    embeds_CQH: Array
    prompts: list[Prompt]
    logits_PV: Array
    answers: list[list[int]]
    llm_dtype: str = "float32"

    def save(self, path: Path) -> None:
        """Write the file."""
        texts = json.dumps([[list(p.input_ids), [list(s) for s in p.audio_spans], list(p.clips)] for p in self.prompts])
        arrays: dict[str, Any] = {f"clip_{i}": c for i, c in enumerate(self.clips)} | {f"features_{i}": f for i, f in enumerate(self.features)}
        words: dict[str, Any] = {"prompts": np.array(texts), "answers": np.array(json.dumps(self.answers)), "llm_dtype": np.array(self.llm_dtype)}
        np.savez_compressed(path, embeds=self.embeds_CQH, logits=self.logits_PV, **words, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read the file.

        Raises:
            ValueError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as raw:
                count = len(raw["embeds"])
                prompts = [Prompt(ids, [(s[0], s[1]) for s in spans], clips) for ids, spans, clips in json.loads(str(raw["prompts"]))]
                clips, features = ([raw[f"{name}_{i}"] for i in range(count)] for name in ("clip", "features"))
                return cls(clips, features, raw["embeds"], prompts, raw["logits"], json.loads(str(raw["answers"])), str(raw["llm_dtype"]))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"cannot read {path} ({error}): export the bundle again") from error


@contextmanager
def without_onednn() -> Iterator[None]:
    """PyTorch's own kernels: oneDNN's fp32 is less exact on CPUs with AMX (3e-5 instead of 5e-6 behind Whisper-base), and engines are held against this."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # said of Intel GPUs whenever this switch is touched
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def make_reference(model: "DestaModel", clips: Sequence[Array]) -> Reference:
    """Ask the PyTorch model.

    Args:
        model: in evaluation mode, with the formats of its checkpoint.
        clips: 16 kHz mono float32 samples, at least one.
    """
    import torch

    assert clips
    encoder = model.perception.encoder
    with torch.inference_mode(), without_onednn():
        batches = [encoder.featurizer([clip], encoder.pad_to) for clip in clips]
        embeds = torch.cat([model.perception(f.to(model.device), n).float() for f, n in batches])
    prompts = [rendered_prompt(model, question, numbers) for question, numbers in questions(len(clips))]
    logits, answers = zip(*(_answer(model, prompt, embeds) for prompt in prompts), strict=True)
    features = [f[0, :, : int(n[0])].numpy() for f, n in batches]
    backbone: Any = model.backbone
    llm_dtype = str(backbone.dtype).removeprefix("torch.")
    return Reference([np.asarray(c, np.float32) for c in clips], features, embeds.cpu().numpy(), prompts, np.stack(logits), list(answers), llm_dtype)


def questions(clips: int) -> list[tuple[str, tuple[int, ...]]]:
    """What is asked about which clips: one question a clip, one about two where there are two, one without any."""
    chosen = [(i,) for i in range(clips)] + [(0, 1)] * (clips > 1) + [()]
    return [(QUESTIONS[n % len(QUESTIONS)], numbers) for n, numbers in enumerate(chosen)]


def messages(question: str, clips: Sequence[int]) -> list[dict[str, Any]]:
    """A question about some clips as a conversation."""
    user = "\n".join([*[AUDIO_LOCATOR] * len(clips), "", question]).strip()
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def transcript(clip: int) -> str:
    """The words that prompts show beside a clip."""
    return f"clip {clip}"


def rendered_prompt(model: "DestaModel", question: str, clips: Sequence[int]) -> Prompt:
    """A question about some clips as a prompt, in the one rendering that training used."""
    rendered = render(messages(question, clips), model.tokenizer, model.layout, transcripts=[transcript(i) for i in clips])
    return Prompt(rendered.input_ids, rendered.audio_spans, list(clips))


def prompt_embeds(model: "DestaModel", prompt: Prompt, embeds_CQH: Any) -> Any:
    """Embeddings [1, T, H] of a prompt with its clips' vectors in their slots."""
    import torch

    x = model.backbone.embed(torch.tensor([list(prompt.input_ids)], device=model.device)).clone()
    for (start, length), clip in zip(prompt.audio_spans, prompt.clips, strict=True):
        x[0, start : start + length] = embeds_CQH[clip].to(x.dtype)
    return x


def _answer(model: "DestaModel", prompt: Prompt, embeds_CQH: Any) -> tuple[Array, list[int]]:
    """Logits_V behind a prompt, and its greedy answer."""
    import torch

    backbone: Any = model.backbone
    with torch.inference_mode():
        x_1TH = prompt_embeds(model, prompt, embeds_CQH)
        mask = torch.ones(x_1TH.shape[:2], dtype=torch.long, device=x_1TH.device)
        logits = backbone.base(inputs_embeds=x_1TH, attention_mask=mask).logits[0, -1].float().cpu().numpy()
        answer = backbone.generate(x_1TH, mask, max_new_tokens=NEW_TOKENS)[0]
    return logits, [int(token) for token in answer]
