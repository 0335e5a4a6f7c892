"""TMHINT-QI: noisy and enhanced Mandarin speech with listeners' ratings of quality and intelligibility.

Obtain: https://github.com/dhimasryan/TMHINT-QI-VoiceMOS2023 and the archive it names. Expected layout (columns confirmed by a third-party reader)::

    TMHINTQI/
      raw_data.csv (or any CSV with these columns)     idx,method,uttr,snr,noise,quality_score,intelligibility_score,file_name
      train/<file_name>.wav, test/<file_name>.wav

One row a listener: the mean of the quality ratings (1 to 5) is ``mos_score``, and rounded it is the class in the seed. Words are left to an ASR tagger, and
so is the gender. (The paper's table spells the name "THMINT-QI".)
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from nemo_desta.corpora.published.base import Entry, PublishedCorpus, Skips, prepare_with
from nemo_desta.corpora.published.layout import audio_below, locate, read_table

CORPUS = PublishedCorpus(
    name="tmhint_qi",
    title="THMINT-QI",
    domain="speech",
    licence="own licence (research use)",
    access="open",
    url="https://github.com/dhimasryan/TMHINT-QI-VoiceMOS2023",
    hours=10.2,
    seed={"gender": "gender", "mos_score": "mos_score", "quality": "Speech_quality"},
    language="Chinese",
    transcribed=False,
    tagged=("text", "gender"),
    aqa5m=("TMHINT-QI",),
)

QUALITIES = ("bad", "poor", "fair", "good", "excellent")


def _read(root: Path, skips: Skips) -> Iterator[Entry]:
    root = locate(root, "*.csv", "train|test")
    files = {path.stem: path for path in audio_below(root)}
    for table in sorted(root.glob("*.csv")):
        ratings: dict[str, list[float]] = defaultdict(list)
        rows: dict[str, dict[str, str]] = {}
        for row in read_table(table, skips, ("method", "snr", "noise", "quality_score", "file_name")):
            with skips.guard(f"{table.name}: {row['file_name']}"):
                if not 1 <= (score := float(row["quality_score"])) <= 5:
                    raise ValueError(f"quality {score} is not between 1 and 5")
                ratings[row["file_name"]].append(score)
                rows.setdefault(row["file_name"], row)
        for name, scores in ratings.items():
            audio = files.get(name, root / "train" / f"{name}.wav")
            rating = int(fmean(scores) + 0.5)
            yield Entry(
                id=name,
                audio=audio,
                attributes={
                    "mos_score": round(fmean(scores), 2),
                    "quality": f"{rating}/5 {QUALITIES[rating - 1]}",
                    "noise_type": rows[name]["noise"],
                    "enhancement": rows[name]["method"],
                },
                split="test" if "test" in audio.relative_to(root).parts else "train",
            )


prepare_tmhint_qi = prepare_with(CORPUS, _read)
