"""Losses of blocks of rows on a CPU, compiled: what torch does in a dozen passes over the similarities takes two.

Each file has the passes and the function of one loss in a form for a single block, which a Loss names as `compiled`.
"""
