"""Measured and predicted latencies of networks.

``calibrate`` measures a few dozen networks and fits a ``LatencyPredictor``, an additive model that serves as a cost
function. ``LatencyCache`` keeps the measurements on disk.

May import: errors, arch, config, distributed, models, run, engine, search.feasible.
"""
