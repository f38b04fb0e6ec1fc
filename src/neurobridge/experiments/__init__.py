"""The research plan's experiments: a question a file, its cells (options that differ), its scales, its measures.

``neurobridge experiment NAME --scale laptop`` does the cells one after the other and goes on where it stopped.
"""
