"""Scores of subnets with the supernet's weights: the scorer, racing, and the ledger that keeps every score.

May import: errors, arch, config, distributed, run, search.feasible.
"""
