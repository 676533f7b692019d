"""Latency of subnets: measured on this device, and predicted from a few dozen measurements.

May import: errors, arch, config, distributed, models, run, engine, search.feasible.
"""
