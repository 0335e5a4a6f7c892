"""Noise as a recipe would hand it to the builder."""

import time
from functools import partial

import numpy as np

from nemo_desta.corpora.audio import SAMPLE_RATE
from nemo_desta.corpora.build import BuildSettings, ClipSource

SETTINGS = BuildSettings(num_jobs=1)


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32).clip(-1, 1)


def render(seconds: float, seed: int, delay: float = 0.0) -> tuple[np.ndarray, int]:
    time.sleep(delay)
    return noise(seconds, seed), SAMPLE_RATE


def source(identifier: str, audio: object, **fields: object) -> ClipSource:
    given = {"group": identifier, "domain": "sound", "licence": "CC0-1.0", "attribution": "the test", "origin": f"test: {identifier}", "split": "train"}
    return ClipSource(id=identifier, audio=audio, **{**given, **fields})


def rendered(count: int, *, delay: float = 0.0, **fields: object) -> list[ClipSource]:
    return [source(f"clip{i:03d}", partial(render, 0.5, i, delay), **fields) for i in range(count)]
