"""The search for the best subnets within a budget.

``session`` opens the inputs of a search, ``loop`` runs the generations, ``algorithms`` wraps pymoo, ``monitor``
reports progress, and ``results`` writes ``best.json`` and ``pareto.json``. The subpackages contain the feasible set,
the scores, the latencies, and the short trainings of finalists.

May import: errors, arch, config, distributed, data, models, run, engine, training, export, its
subpackages.
"""
