"""Metric files, figures and the page of a run."""
