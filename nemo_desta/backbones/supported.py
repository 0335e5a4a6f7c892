"""Which causal LMs the packed loss computes exactly as transformers does; others are refused, because they would train on wrong logits without a word."""

from typing import Any

from transformers import PreTrainedModel

# Key of the config -> the value at which it changes nothing. The loss takes logits straight from `lm_head` and scores straight from the products.
_NEUTRAL: dict[str, float | None] = {
    "logits_scaling": 1.0,  # Granite
    "logit_scale": 1.0,  # Cohere
    "lm_head_multiplier": 1.0,  # Falcon-H1
    "attn_logit_softcapping": None,  # Gemma 2
    "final_logit_softcapping": None,
}


def check_config(config: Any) -> None:
    """Refuse a model by its config, before its weights are loaded. Llama, Qwen2, Qwen3 and SmolLM2 pass.

    Args:
        config: of a transformers model.

    Raises:
        ValueError: the model has maths that the packed attention or the loss leaves out; the message names the key.
    """
    text = config.get_text_config()
    _refuse(text.model_type, _scaling(text) or _window(text))


def check_supported(llm: PreTrainedModel) -> None:
    """Refuse a model by its config or its parts.

    Raises:
        ValueError: see `check_config`; the message names the key or the part.
    """
    check_config(llm.config)
    _refuse(llm.config.model_type, _structure(llm))


def _refuse(model_type: str, problem: str | None) -> None:
    if problem:
        raise ValueError(
            f"{model_type} models with {problem} are not supported as a backbone: the packed attention and loss do not implement it; "
            "use a Llama, Qwen2 or Qwen3 model, or one with full causal attention and plain logits"
        )


def _scaling(config: Any) -> str | None:
    for key, neutral in _NEUTRAL.items():
        value = getattr(config, key, None)
        if value is not None and value != neutral:
            return f"{key}={value}"
    return None


def _window(config: Any) -> str | None:
    """Attention that is not over the whole row before a token. `layer_types`, where there is one, says what a layer really does."""
    types = getattr(config, "layer_types", None)
    if types is not None:
        other = sorted(set(types) - {"full_attention"})
        return f"layer_types {other} (sliding_window={getattr(config, 'sliding_window', None)})" if other else None
    window = getattr(config, "sliding_window", None)
    return f"sliding_window={window}" if window and getattr(config, "use_sliding_window", True) is not False else None


def _structure(llm: PreTrainedModel) -> str | None:
    if any(name.endswith(".sinks") for name, _ in llm.named_parameters()):
        return "attention sinks (parameters 'sinks')"
    if not (hasattr(llm, "model") and hasattr(llm, "lm_head")):
        return "another structure than .model and .lm_head"
    return None if llm._supports_attention_backend else "attention that takes no other implementation"
