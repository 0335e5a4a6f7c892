"""The audio LLM: encoder, connector and frozen backbone together."""

from nemo_desta.models.desta import DestaModel
from nemo_desta.models.inference import GenerationOutput

__all__ = ["DestaModel", "GenerationOutput"]
