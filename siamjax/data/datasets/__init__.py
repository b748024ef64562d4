"""Readers of published and embedded data sets, one set a file.

Each gives the splits of its task: ``siamjax.data.verification`` (orl_faces, lfw),
``siamjax.data.reid`` (pedestrians, cuhk01, cuhk03, grid, market1501) or, as a catalogue,
``siamjax.data.retrieval`` (emoji, online_products).
"""
