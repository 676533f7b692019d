"""Measured and predicted latencies of networks.

``calibrate`` measures a few dozen networks, or reads a user's table of them, and fits a ``LatencyPredictor``, an
additive model that serves as a cost function. ``LatencyCache`` keeps the measurements on disk. ``search/runtime.py``
runs the networks.

May import: errors, arch, config, distributed, models, run, engine, search.feasible.
"""
