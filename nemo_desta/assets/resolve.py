"""Model references of the configuration: ``asset://name``, ``hf://owner/name`` or a local directory."""

import re
from pathlib import Path

from nemo_desta.assets.catalogue import MODELS
from nemo_desta.assets.fetching import fetch

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(ref: str) -> Path | str:
    """Turn a model reference into something ``from_pretrained`` accepts.

    Args:
        ref: ``asset://whisper-base`` (fetched and converted if need be), ``hf://owner/name``, or the path of a directory.

    Returns:
        A directory, or "owner/name" for the Hugging Face hub (which looks into its own local cache first).

    Raises:
        ValueError: None of the three.
        AssetError: The asset cannot be had; the message says what to do.
    """
    scheme, separator, name = ref.partition("://")
    if separator and scheme == "asset":
        if name not in MODELS:
            raise ValueError(f"unknown model asset {ref!r}; there are {', '.join(f'asset://{known}' for known in MODELS)}")
        return fetch([name])[name]
    if separator and scheme == "hf":
        if _HUB_ID.fullmatch(name) is None:
            raise ValueError(f"{ref!r} is not of the form hf://owner/name")
        return name
    path = Path(ref).expanduser()
    if not ref or separator or not path.is_dir():
        raise ValueError(f"model {ref!r} is neither asset://name, nor hf://owner/name, nor an existing directory")
    return path
