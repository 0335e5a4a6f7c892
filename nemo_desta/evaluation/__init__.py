"""Evaluation: held-out questions, language retention, statistics and the report.

The way of an item: a benchmark loads it, turns it into messages for each condition, the runner asks the model (journaled, resumable), the benchmark extracts
an answer from the response and scores it, and the scores are aggregated with confidence intervals. Only `runner` ever calls a model.
"""

from nemo_desta.evaluation.model import AudioModel, Generation

__all__ = ["AudioModel", "Generation"]
