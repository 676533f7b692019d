"""Architectures as data: no torch, no files of a run.

``SubnetSpec`` describes one network and ``SearchSpace`` all candidates. A genome is a row of integers that encodes a
network for sampling and crossover; ``cost`` prices many networks at once; ``published`` lists the nets of the papers.

May import: errors.
"""
