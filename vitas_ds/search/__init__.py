"""The search for the best subnets within a budget.

``session`` opens everything that a search needs, ``loop`` runs the generations, ``algorithms`` wraps pymoo, ``monitor``
reports progress, ``finalists`` trains the best candidates, and ``results`` writes ``best.json`` and ``pareto.json``.
The subpackages contain the feasible set, the scores and the latencies.

May import: errors, arch, config, distributed, data, models, run, engine, training, its subpackages.
"""
