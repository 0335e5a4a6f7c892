"""Text LLMs behind one small interface (contract C3)."""

from nemo_desta.backbones.base import Backbone
from nemo_desta.backbones.hf import HFBackbone

__all__ = ["Backbone", "HFBackbone"]
