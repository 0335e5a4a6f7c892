"""Engines that answer prompts; :func:`make_engine` chooses by ``generation.engine``."""

from nemo_desta.config import DestaConfig
from nemo_desta.generation.engines.base import Completion, Engine, Sampling

ENGINES = ("transformers",)

__all__ = ["ENGINES", "Completion", "Engine", "Sampling", "make_engine"]


def check_engine(name: str) -> None:
    """Raise ValueError for an engine that does not exist."""
    if name not in ENGINES:
        raise ValueError(f"generation.engine={name!r} is unknown: choose one of {', '.join(ENGINES)}")


def make_engine(config: DestaConfig) -> Engine:
    """Load the backbone into the configured engine.

    Raises:
        ValueError: unknown engine, or sampling values out of range.
    """
    g = config.generation
    check_engine(g.engine)
    sampling = Sampling(temperature=g.temperature, top_p=g.top_p, max_new_tokens=g.max_new_tokens, seed=g.seed)
    # Imported here: torch and transformers take seconds, which a finished run need not pay.
    from nemo_desta.assets import resolve_model
    from nemo_desta.generation.engines.transformers import TransformersEngine

    return TransformersEngine(resolve_model(config.model.llm), sampling, config.model.llm_precision)
