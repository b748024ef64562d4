"""What a run is: a network trained, judged and reported in one folder, and opened again to use it.

Contract: the folder gets ``config.json`` (what was asked for), ``metrics.jsonl``, TensorBoard
events, ``sessions.jsonl`` and ``checkpoints/`` while it trains, then ``manifest.json`` (all that is
needed to use it) and ``report.html``.
"""
