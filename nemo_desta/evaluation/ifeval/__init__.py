"""Verifiable instructions (IFEval, arXiv:2311.07911): whether a response keeps to a length, a format, a word.

An own implementation of the checks that Google published under Apache-2.0 (``google-research/instruction_following_eval``), written to their documented
behaviour, corners included. `Variant.google` is what VoiceBench runs; `Variant.speech_ifeval` has the four changes of Speech-IFEval. Sentences are counted with
NLTK's Punkt, found offline; the language detector is seeded.
"""

from nemo_desta.evaluation.ifeval.arguments import Arguments
from nemo_desta.evaluation.ifeval.check import Variant, follows, instruction_problem, loosened
from nemo_desta.evaluation.ifeval.rules import GOOGLE_RULES
from nemo_desta.evaluation.ifeval.speech import SPEECH_RULES
from nemo_desta.evaluation.ifeval.text import PUNKT_ASSET, ensure_punkt, punkt_path

__all__ = ["GOOGLE_RULES", "PUNKT_ASSET", "SPEECH_RULES", "Arguments", "Variant", "ensure_punkt", "follows", "instruction_problem", "loosened", "punkt_path"]
