"""Experiments, one file each: the idea of a paper, composed from siamjax."""
