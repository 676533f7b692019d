"""Network architectures as data. Importing this package does not import torch.

``SubnetSpec`` describes one network and ``SearchSpace`` all candidates. A genome is a row of integers that encodes a
network for sampling and crossover. ``cost`` computes the costs of many networks at once. ``published`` has the networks
of the papers.

May import: errors.
"""
