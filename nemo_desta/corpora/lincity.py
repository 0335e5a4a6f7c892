"""Soundscapes of places in LinCity-NG (Debian package ``lincity-ng-data``): farms, factories, traffic, parks, schools."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_desta.corpora.build import BuildSettings, ClipSource
from nemo_desta.corpora.sound_classes import build_sounds, folder_sources, package_root

if TYPE_CHECKING:
    from lhotse import CutSet

PACKAGE, SOUNDS = "lincity-ng-data", "usr/share/games/lincity-ng/sounds"
LICENCE = "GPL-2.0-or-later"
ATTRIBUTION = "LinCity-NG contributors (see usr/share/doc/lincity-ng-data/copyright)"


def lincity_sources(root: Path) -> Iterator[ClipSource]:
    """Clips below the package's folder of sounds; the file name says what is heard."""
    return folder_sources("lincity", PACKAGE, root, licence=LICENCE, attribution=ATTRIBUTION)


def prepare_lincity(corpus_dirs: Mapping[str, Path], output_dir: str | Path, *, settings: BuildSettings) -> "CutSet":
    """Build the corpus.

    Args:
        corpus_dirs: Directory of the asset ``lincity-ng-data``.
        output_dir: Folder that holds the corpora.
        settings: See `BuildSettings`.

    Returns:
        About 125 sounds.

    Raises:
        ValueError: The package is missing or broken.
    """
    sources = lincity_sources(package_root(corpus_dirs, PACKAGE, SOUNDS))
    return build_sounds("lincity", sources, output_dir, settings)
