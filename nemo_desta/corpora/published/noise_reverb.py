"""Dynamic-SUPERB-Train noise-reverb: named speakers with added noise and reverberation, made for the paper's set and not published.

Who makes it anew (speech with words and speakers, noise at a known SNR, rooms of a known C50) lays it out so (our own layout)::

    noise_reverb/
      metadata.csv        file,text,speaker,gender,snr_db,c50_ms        snr_db and c50_ms may be empty
      <file>

The table's example writes the times of this corpus alone as ``HH:MM:SS``; here they are written as in all other rows.
"""

from collections.abc import Iterator
from pathlib import Path

from nemo_desta.corpora.published.base import Entry, PublishedCorpus, Skips, prepare_with
from nemo_desta.corpora.published.layout import locate, read_table
from nemo_desta.corpora.published.vctk_musan import noise_level
from nemo_desta.corpora.published.vocabulary import gender, words

CORPUS = PublishedCorpus(
    name="noise_reverb",
    title="Dynamic-SUPERB-Train noise-reverb",
    domain="speech",
    licence="as its sources",
    access="bring audio",
    url="https://arxiv.org/abs/2309.09510",
    hours=None,
    seed={
        "speaker_id": '{}: "words"',  # nemo_desta.seed.describe.QUOTED
        "gender": "Gender",
        "noise": "Noise Level",
        "snr_db": "(Signal-to-Noise Ratio)",
        "c50_ms": "Reverberation(C50)",
        "duration_seconds": "Duration",
    },
    language="English",
    aqa5m=("dynamic-superb-noise-reverb",),
    note="make it yourself; layout is our own",
)


def _read(root: Path, skips: Skips) -> Iterator[Entry]:
    root = locate(root, "metadata.csv")
    for row in read_table(root / "metadata.csv", skips, ("file", "text", "speaker")):
        with skips.guard(row["file"]):
            snr = float(row["snr_db"]) if row.get("snr_db") else None
            yield Entry(
                id=Path(row["file"]).with_suffix("").as_posix(),
                audio=root / row["file"],
                text=row["text"],
                gender=gender(row.get("gender")),
                speaker=row["speaker"],
                attributes={
                    "speaker_id": words(row["speaker"]),
                    "noise": noise_level(snr),
                    "snr_db": snr,
                    "c50_ms": float(row["c50_ms"]) if row.get("c50_ms") else None,
                },
            )


prepare_noise_reverb = prepare_with(CORPUS, _read)
