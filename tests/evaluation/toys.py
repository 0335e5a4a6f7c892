"""A tiny corpus with real audio files, and models that hear, guess or break."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment

from nemo_desta.evaluation.benchmarks.heldout import load_questions
from nemo_desta.seed.attributes import attributes_of

VALUES = {
    "speech": {"language": ["English", "French", "Italian"], "gender": ["female", "male"]},
    "music": {"genre": ["jazz", "reggae"], "tempo": ["fast", "slow"]},
    "sound": {"sound_class": ["bell", "dog", "rain", "train"]},
}


def make_cut(folder: Path, cut_id: str, domain: str, attributes: dict, group: str, seconds: float = 0.3) -> MonoCut:
    """A clip of a tone, as the corpora write it."""
    path = folder / f"{cut_id}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.2 * np.sin(2 * np.pi * (200 + 10 * len(cut_id)) * np.arange(int(16000 * seconds)) / 16000)
    soundfile.write(path, tone, 16000)
    custom = {k: v for k, v in attributes.items() if k not in ("language", "gender")}
    text = "hello there" if domain == "speech" else None
    supervision = SupervisionSegment(
        cut_id, cut_id, 0.0, seconds, text=text, language=attributes.get("language"), gender=attributes.get("gender"), custom=custom
    )
    recording = Recording.from_file(path, recording_id=cut_id)
    about = {"dataset": "toy", "domain": domain, "split": "test", "license": "CC0-1.0", "attribution": "made by a test", "group": group}
    return MonoCut(cut_id, 0.0, recording.duration, 0, supervisions=[supervision], recording=recording, custom=about)


def make_cuts(folder: Path, per_domain: int = 12) -> list[MonoCut]:
    """Clips of three domains with balanced attribute values."""
    cuts = []
    for domain, choices in VALUES.items():
        for i in range(per_domain):
            attributes = {name: values[(i // (n + 1)) % len(values)] for n, (name, values) in enumerate(choices.items())}
            cuts.append(make_cut(folder, f"{domain}-{i:02d}", domain, attributes, f"{domain}:{i % 5}"))
    return cuts


@dataclass
class Output:
    text: str


class HearingModel:
    """Answers what the clip in the message truly is; without a clip a fixed value of the attribute."""

    def __init__(self, fallback: dict[str, str] | None = None) -> None:
        self.attribute = {question: name for name, question in load_questions().items()}
        self.fallback = fallback or {}
        self.asked: list = []
        self.calls = 0

    def generate(self, messages, *, max_new_tokens, do_sample=False, temperature=1.0, top_p=1.0, transcribe=True):
        self.calls += 1
        self.asked += messages
        return [Output(self.answer(m)) for m in messages]

    def answer(self, conversation) -> str:
        last = conversation[-1]
        name = self.attribute.get(last["content"].removeprefix("<|AUDIO|>\n\n"))
        if last.get("audios"):
            return f"I think it is {attributes_of(last['audios'][0]['audio'])[name]}."
        return self.fallback.get(name, "I cannot hear anything.")


class KilledModel(HearingModel):
    """Dies at its n-th batch."""

    def __init__(self, survives: int) -> None:
        super().__init__()
        self.survives = survives

    def generate(self, messages, **settings):
        if self.calls == self.survives:
            raise KeyboardInterrupt
        return super().generate(messages, **settings)
