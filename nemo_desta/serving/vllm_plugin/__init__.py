"""Exported models in vLLM: ``vllm serve BUNDLE/vllm`` where this library is installed (entry point group ``vllm.general_plugins``).

vLLM tokenises, batches and runs the LLM by its own model classes; this package adds the clips: the chat template's turns with audio (``prompt``), the
processor that makes token ids and features of a request (``processing``), and the encoder with the connector beside the LLM (``model``).
vLLM pins its own torch, so it lives in an environment of its own, where this package needs NumPy, torch, transformers, OmegaConf and Hydra, no NeMo.
"""

import logging

logger = logging.getLogger(__name__)
WRITTEN_FOR = (0, 32)  # vLLM's interfaces for multimodal models change with most releases


def register() -> None:
    """Tell vLLM about the model. Called by vLLM in each of its processes; another version of vLLM serves other models undisturbed."""
    import vllm
    from transformers import AutoConfig
    from vllm.model_executor.models.registry import ModelRegistry

    from nemo_desta.serving.vllm_plugin.config import ARCHITECTURE, MODEL_TYPE, NemoDestaConfig

    if tuple(int(part) for part in vllm.__version__.split("+")[0].split(".")[:2]) != WRITTEN_FOR:
        wanted = ".".join(map(str, WRITTEN_FOR))
        logger.warning("nemo_desta's plugin is written for vLLM %s, this is %s: exported models with audio cannot be served", wanted, vllm.__version__)
        return
    AutoConfig.register(MODEL_TYPE, NemoDestaConfig, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, "nemo_desta.serving.vllm_plugin.model:NemoDestaForConditionalGeneration")
