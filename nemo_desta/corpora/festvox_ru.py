"""Russian studio recordings of the Festival voice ``msu_ru_nsh_clunits`` (Debian package ``festvox-ru``): 620 sentences, one man.

``etc/txt.done.data`` has lines ``( ru_0001 "text" )`` with ``+`` before stressed vowels, ``wav/<id>.wav`` the recordings.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource, build_cuts

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE = "festvox-ru"
_VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
_LINE = re.compile(r'^\(\s*(\S+)\s+"(.*)"\s*\)\s*$')


def read_sentences(path: Path) -> dict[str, str]:
    """Words by sentence id, without stress marks."""
    matches = (_LINE.match(line) for line in path.read_text("utf-8", errors="replace").splitlines())
    return {match[1]: " ".join(match[2].replace("+", "").split()) for match in matches if match}


def parse_festvox_ru(corpus_dirs: Mapping[str, Path]) -> Iterator[ClipSource]:
    """All sentences, in order of their id."""
    root = corpus_dirs[PACKAGE] / _VOICE
    for identifier, text in sorted(read_sentences(root / "etc/txt.done.data").items()):
        yield ClipSource(
            id=identifier,
            audio=root / f"wav/{identifier}.wav",
            group="nsh",
            domain="speech",
            licence="BSD-like",
            attribution="Russian voice for Festival, (C) 2005 Nickolay V. Shmyrev",
            origin=f"{PACKAGE}: {_VOICE}/wav/{identifier}.wav",
            text=text or None,
            language="Russian",
            gender="male",
            speaker="festvox_ru-nsh",
            attributes={"style": "read aloud"},
            split="train",
        )


def prepare_festvox_ru(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Read Russian sentences.

    Args:
        corpus_dirs: The unpacked package ``festvox-ru``.
        output_dir: Folder of all corpora.
        settings: See `BuildSettings`.

    Returns:
        620 clips, all for training (one speaker).
    """
    return build_cuts("festvox_ru", parse_festvox_ru(corpus_dirs), output_dir, settings)
