"""The report of a run: ``results.json``, ``report.html``, ``report.md``, figures and playable clips."""

from nemo_desta.evaluation.report.page import write_report

__all__ = ["write_report"]
