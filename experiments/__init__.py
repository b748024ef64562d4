"""Experiments, one file each: the idea of a paper, composed from siamjax."""

import sys

from siamjax.platform import import_quickly

if sys.argv[:1] == ["-m"]:  # python -m experiments.NAME, whose file is imported next
    import_quickly()
