"""Scores of candidates: the scorer, racing, and the ledger that records every score.

A score is the accuracy of a candidate on the search images, computed with the weights of the trained supernet.

May import: errors, arch, config, distributed, run, search.feasible.
"""
