"""ParaSpeechCaps: tags of speaking style for speech of VoxCeleb, Expresso, EARS and Emilia.

Obtain: https://huggingface.co/datasets/ajd12342/paraspeechcaps (labels, an account); the audio from its four sources. Expected layout::

    paraspeechcaps/
      data/train_base-00000-of-00001.parquet (or train_scaled-*, dev-*, holdout-*, test-*)
            source, relative_audio_path, transcription, gender, accent, pitch, speaking_rate, intrinsic_tags, situational_tags, all_tags, speakerid, ...
      voxceleb/, expresso/, ears/, emilia/        the audio: <source>/<relative_audio_path>

Clips whose audio is not there are counted as ``not_downloaded`` and are no error.

The columns source to all_tags without gender, accent, pitch and rate agree with a third-party reader; those four are from the paper.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_desta.corpora.published.base import NOT_DOWNLOADED, Entry, PublishedCorpus, Skips, prepare_with
from nemo_desta.corpora.published.layout import locate, parquet_table, split_of
from nemo_desta.corpora.published.vocabulary import gender

CORPUS = PublishedCorpus(
    name="paraspeechcaps",
    title="Paraspeechcaps",
    domain="speech",
    licence="CC-BY-NC-SA-4.0 (labels; audio: its sources')",
    access="bring audio",
    url="https://huggingface.co/datasets/ajd12342/paraspeechcaps",
    hours=2769.0,
    seed={"gender": "Gender", "emotion": "emotion", "accent": "Accent", "pitch": "Pitch", "speaking_rate": "Speaking rate", "tags": "Style"},
    language="English",
    note="342 hours tagged by people, the rest by rule",
)

EMOTIONS = {"angry", "disgusted", "scared", "happy", "sad", "calm", "confused", "guilt", "admiring", "bored", "desirous", "enthusiastic", "pained", "awed"}


def _tags(value: Any) -> list[str]:
    return [str(tag) for tag in (value if isinstance(value, list) else []) if tag]


def _read(root: Path, skips: Skips) -> Iterator[Entry]:
    root = locate(root, "*.parquet|data/*.parquet")
    for file in sorted({*root.glob("*.parquet"), *root.glob("data/*.parquet")}):
        split = "test" if file.name.startswith("holdout") else split_of(file.name)
        for number, row in enumerate(parquet_table(file, skips)):
            with skips.guard(f"{file.name}, row {number}"):
                audio = root / row["source"] / row["relative_audio_path"]
                if not audio.is_file():
                    skips.add(NOT_DOWNLOADED, audio.relative_to(root))
                    continue
                tags = _tags(row.get("all_tags")) or _tags(row.get("intrinsic_tags")) + _tags(row.get("situational_tags"))
                yield Entry(
                    id=f"{row['source']}-{Path(row['relative_audio_path']).with_suffix('').as_posix().replace('/', '-')}",
                    audio=audio,
                    text=row.get("transcription"),
                    gender=gender(row.get("gender")),
                    speaker=None if row.get("speakerid") is None else str(row["speakerid"]),
                    attributes={
                        "emotion": next((tag for tag in tags if tag in EMOTIONS), None),
                        "accent": row.get("accent"),
                        "pitch": row.get("pitch"),
                        "speaking_rate": row.get("speaking_rate"),
                        "tags": [tag for tag in tags if tag not in EMOTIONS],
                        "caption": (row.get("text_description") or [None])[0] if isinstance(row.get("text_description"), list) else row.get("text_description"),
                    },
                    split=split,
                )


prepare_paraspeechcaps = prepare_with(CORPUS, _read)
