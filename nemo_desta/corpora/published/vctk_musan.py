"""VCTK+MUSAN: VCTK speakers talking at once over noise of MUSAN, mixed for the paper's set and not published (``VCTK_augmented``).

Who mixes them anew (VCTK: see ``vctk.py``; MUSAN: https://www.openslr.org/17/) lays them out so (our own layout)::

    vctk_musan/
      metadata.csv        file,num_speakers,snr_db         snr_db may be empty: no noise was added
      <file>

The noise level of the seed follows from the SNR: noisy up to 10 dB, moderate up to 20 dB, clean above and where none was added.
"""

from collections.abc import Iterator
from pathlib import Path

from nemo_desta.corpora.published.base import Entry, PublishedCorpus, Skips, prepare_with
from nemo_desta.corpora.published.layout import locate, read_table

CORPUS = PublishedCorpus(
    name="vctk_musan",
    title="VCTK+MUSAN",
    domain="speech",
    licence="CC-BY-4.0",
    access="bring audio",
    url="https://www.openslr.org/17/",
    hours=None,
    seed={"num_speakers": "{} speaker(s) talking", "noise": "Noise Level", "snr_db": "Signal-to-Noise Ratio"},
    language="English",
    transcribed=False,
    aqa5m=("VCTK_augmented", "VCTK_augmented2"),
    note="mix it yourself; layout is our own",
)


def noise_level(snr_db: float | None) -> str:
    """``noisy``, ``moderate`` or ``clean``, as the paper's table uses the words (10 dB is noisy, 15 dB moderate)."""
    return "clean" if snr_db is None or snr_db > 20 else "moderate" if snr_db > 10 else "noisy"


def _read(root: Path, skips: Skips) -> Iterator[Entry]:
    root = locate(root, "metadata.csv")
    for row in read_table(root / "metadata.csv", skips, ("file", "num_speakers")):
        with skips.guard(row["file"]):
            snr = float(row["snr_db"]) if row.get("snr_db") else None
            yield Entry(
                id=Path(row["file"]).with_suffix("").as_posix(),
                audio=root / row["file"],
                attributes={"num_speakers": int(row["num_speakers"]), "noise": noise_level(snr), "snr_db": snr},
            )


prepare_vctk_musan = prepare_with(CORPUS, _read)
