"""Flax linen modules, one network a file."""
