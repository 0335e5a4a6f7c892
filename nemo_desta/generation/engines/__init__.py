"""Engines that answer prompts; :func:`make_engine` chooses by ``generation.engine``."""

from typing import Any

from nemo_desta.config import DestaConfig, GenerationConfig
from nemo_desta.generation.engines.base import Completion, Engine, Sampling

ENGINES = ("transformers", "vllm", "openai")

__all__ = ["ENGINES", "Completion", "Engine", "Sampling", "check_engine", "engine_settings", "make_engine", "sampling_of"]


def check_engine(name: str) -> None:
    """Raise ValueError for an engine that does not exist."""
    if name not in ENGINES:
        raise ValueError(f"generation.engine={name!r} is unknown: choose one of {', '.join(ENGINES)}")


def sampling_of(config: GenerationConfig) -> Sampling:
    """How tokens are drawn.

    Raises:
        ValueError: a number out of range.
    """
    return Sampling(temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens, seed=config.seed)


def engine_settings(config: GenerationConfig) -> dict[str, Any]:
    """Of the engine's own section, what the answers depend on: not where the server is, how many requests fly or how much memory is taken."""
    if config.engine == "openai":
        return {"openai.model": config.openai.model, "openai.prompt_as": str(config.openai.prompt_as), "openai.extra": config.openai.extra}
    if config.engine == "vllm":
        return {"vllm.max_model_len": config.vllm.max_model_len, "vllm.extra": config.vllm.extra}
    return {}


def make_engine(config: DestaConfig) -> Engine:
    """Load the backbone into the configured engine, or reach the server that has it.

    Raises:
        ValueError: unknown engine, or settings out of range.
        OSError: no server answers.
    """
    g = config.generation
    check_engine(g.engine)
    sampling = sampling_of(g)
    # Imported here: torch and transformers take seconds, which a finished run need not pay, and vLLM is optional.
    from nemo_desta.assets import resolve_model

    model = resolve_model(config.model.llm)
    if g.engine == "openai":
        from nemo_desta.generation.engines.openai import OpenAIEngine

        return OpenAIEngine(model, sampling, g.openai)
    if g.engine == "vllm":
        from nemo_desta.generation.engines.vllm import VllmEngine

        return VllmEngine(model, sampling, config.model.llm_precision, g.vllm)
    from nemo_desta.generation.engines.transformers import TransformersEngine

    return TransformersEngine(model, sampling, config.model.llm_precision)
