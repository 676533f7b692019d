"""The folder of a run and everything written to it.

``RunDir`` names the paths, ``files`` reads and writes them atomically, ``tracking`` records the metrics, and
``compatibility`` decides whether a run may continue with a given configuration.

May import: errors, config, distributed.
"""
