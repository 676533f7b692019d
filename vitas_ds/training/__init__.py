"""The training loop that train-supernet and retrain share.

``train`` runs a ``Task``. ``checkpoint`` saves and loads in a format that does not depend on ZeRO stage or number of
ranks, ``resume`` chooses where a training starts, ``sampling`` draws the subnets of a step, and ``losses`` has the
losses of the sharing rules.

May import: errors, arch, config, distributed, data, models, run, engine.
"""
