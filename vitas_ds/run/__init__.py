"""Run folders: paths, files, metrics and tracking.

``RunDir`` names every path, ``files`` writes atomically, ``start`` creates or reopens the folder, ``tracking`` records
the metrics, and ``compatibility`` checks whether a run may continue with a given configuration.

May import: errors, config, distributed.
"""
