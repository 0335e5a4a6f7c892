"""Sounds of the flight simulator Search and Rescue (Debian package ``searchandrescue-data``): helicopters, jets, thunder, splashes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, folder_sources, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE, SOUNDS = "searchandrescue-data", "usr/share/games/searchandrescue/sounds"
LICENCE = "GPL-2.0-or-later"
ATTRIBUTION = "Search and Rescue contributors (see usr/share/doc/searchandrescue-data/copyright)"


def searchandrescue_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below the package's folder of sounds; the file name says what is heard."""
    return folder_sources("searchandrescue", PACKAGE, root, licence=LICENCE, attribution=ATTRIBUTION)


def prepare_searchandrescue(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``searchandrescue-data``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 50 sounds.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = searchandrescue_sources(package_root(corpus_dirs, PACKAGE, SOUNDS))
    return build_sounds("searchandrescue", sources, output_dir, settings)
