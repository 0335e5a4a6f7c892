"""nemo_desta: large audio language models built the DeSTA2.5 way (arXiv 2507.02768)."""

__version__ = "0.1.0"
