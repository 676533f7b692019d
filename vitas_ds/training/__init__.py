"""The training loop that train-supernet and retrain share.

``train`` runs a ``Task``. ``checkpoint`` saves and loads in a format independent of ZeRO stage and number of ranks;
``checkpoint_write`` is its thread. ``checkpoint_files`` and ``checkpoint_reader`` handle checkpoints without an engine,
``checkpoint_deepspeed`` reads those of DeepSpeed. ``resume`` chooses where training starts, ``sampling`` draws the
subnets of a step, and ``losses`` implements the losses of the sharing rules. ``replay`` computes a step again that
``nonfinite`` has recorded.

May import: errors, arch, config, distributed, data, models, run, engine.
"""
