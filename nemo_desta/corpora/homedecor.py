"""Household sounds of the Minetest modification homedecor (Debian package ``minetest-mod-homedecor``)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, folder_sources, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE, SOUNDS = "minetest-mod-homedecor", "usr/share/games/minetest/mods/homedecor"
LICENCE = "LGPL-3.0 AND CC-BY-SA-4.0"
ATTRIBUTION = "Minetest homedecor contributors (see usr/share/doc/minetest-mod-homedecor/copyright)"


def homedecor_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below the package's folder of sounds; the file name says what is heard."""
    return folder_sources("homedecor", PACKAGE, root, licence=LICENCE, attribution=ATTRIBUTION)


def prepare_homedecor(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``minetest-mod-homedecor``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 10 sounds.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = homedecor_sources(package_root(corpus_dirs, PACKAGE, SOUNDS))
    return build_sounds("homedecor", sources, output_dir, settings)
