"""Metric files, figures and the page of a run."""

from siamjax.report.inside import activations, dead_filters, layers

__all__ = ["activations", "dead_filters", "layers"]
