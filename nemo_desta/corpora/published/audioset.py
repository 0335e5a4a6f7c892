"""AudioSet: two million YouTube clips of 10 s with tags of 527 classes.

Obtain: the label files from https://research.google.com/audioset/download.html; the audio has to be downloaded from YouTube, clip by clip (a part of
the videos is gone: such clips are counted as ``not_downloaded`` and are no error). Expected layout::

    audioset/
      class_labels_indices.csv            index,mid,display_name
      balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv
                                          # YTID, start_seconds, end_seconds, positive_labels
      <anything>/<YTID>.wav               or Y<YTID>.flac, <YTID>_30.000.mp3, ...: the cut clips, anywhere below
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from nemo_desta.corpora.published.base import NOT_DOWNLOADED, Entry, PublishedCorpus, Skips, prepare_with
from nemo_desta.corpora.published.layout import locate, read_lines, read_table, youtube_clips

CORPUS = PublishedCorpus(
    name="audioset",
    title="AudioSet",
    domain="sound",
    licence="labels CC-BY-4.0 (clips: their uploaders')",
    access="bring audio",
    url="https://research.google.com/audioset/download.html",
    hours=5800.0,
    seed={"tags": ""},
    aqa5m=("AudioSet-20K",),
)

SPLITS = {"balanced_train_segments.csv": "train", "unbalanced_train_segments.csv": "train", "eval_segments.csv": "test"}


def _read(root: Path, skips: Skips) -> Iterator[Entry]:
    root = locate(root, "class_labels_indices.csv", "|".join(SPLITS))
    names = {row["mid"]: row["display_name"] for row in read_table(root / "class_labels_indices.csv", skips, ("mid", "display_name"))}
    clips = youtube_clips(root)
    for file, split in SPLITS.items():
        if not (root / file).is_file():
            continue
        lines = (line for line in read_lines(root / file) if not line.startswith("#"))
        for row in csv.reader(lines, skipinitialspace=True):
            with skips.guard(f"{file}: {row}"):
                video, start, end, labels = row
                if video not in clips:
                    skips.add(NOT_DOWNLOADED, video)
                    continue
                tags = [names[mid].lower() for mid in labels.split(",")]
                yield Entry(id=f"{video}-{float(start):g}-{float(end):g}", audio=clips[video], attributes={"tags": tags}, split=split, group=video)


prepare_audioset = prepare_with(CORPUS, _read)
