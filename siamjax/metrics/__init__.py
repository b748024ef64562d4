"""Measures of training and of evaluation."""
