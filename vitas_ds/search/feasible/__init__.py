"""The subnets inside a budget: an exact table of them, and operators that sample and repair genomes.

May import: errors, arch, config.
"""
