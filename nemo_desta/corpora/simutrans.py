"""Sounds of the transport game Simutrans (Debian package ``simutrans-pak64``): vehicles, animals, landscapes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, folder_sources, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE, SOUNDS = "simutrans-pak64", "usr/share/games/simutrans/pak/sound"
LICENCE = "Artistic-1.0"
ATTRIBUTION = "Simutrans pak64 contributors (see usr/share/doc/simutrans-pak64/copyright)"


def simutrans_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below the package's folder of sounds; the file name says what is heard."""
    return folder_sources("simutrans", PACKAGE, root, licence=LICENCE, attribution=ATTRIBUTION)


def prepare_simutrans(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``simutrans-pak64``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 22 sounds.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = simutrans_sources(package_root(corpus_dirs, PACKAGE, SOUNDS))
    return build_sounds("simutrans", sources, output_dir, settings)
