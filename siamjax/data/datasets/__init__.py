"""Readers of published and embedded data sets, one set a file.

They are opened through their task: ``siamjax.data.verification`` (orl_faces, lfw),
``siamjax.data.reid`` (pedestrians, cuhk01, cuhk03, grid, market1501) and
``siamjax.data.retrieval`` (emoji, online_products).
"""
