"""Sounds of the Minetest game (Debian package ``minetest-data``): footsteps by ground, digging by material, doors, fire, water."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, folder_sources, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE, SOUNDS = "minetest-data", "usr/share/games/minetest"
LICENCE = "CC-BY-SA-3.0 AND CC-BY-SA-4.0 AND CC0-1.0"
ATTRIBUTION = "Minetest contributors (see usr/share/doc/minetest-data/copyright)"


def minetest_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below the package's folder of sounds; the file name says what is heard."""
    return folder_sources("minetest", PACKAGE, root, licence=LICENCE, attribution=ATTRIBUTION)


def prepare_minetest(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``minetest-data``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 105 sounds.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = minetest_sources(package_root(corpus_dirs, PACKAGE, SOUNDS))
    return build_sounds("minetest", sources, output_dir, settings)
