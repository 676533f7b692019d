"""The networks within a budget: an exact table of all of them, and operators that sample and repair genomes.

``feasible_set`` computes the table. ``sample_distinct`` draws networks from it, and ``repair`` moves genomes into the
budget.

May import: errors, arch, config.
"""
