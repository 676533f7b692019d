"""Start from a pretrained network: how important its units are, and sorting them without changing what it computes.

``importance`` measures, ``scores`` is its file, ``order`` and ``reorder`` sort, ``views`` makes two views of an image.

May import: errors, arch, config, distributed, data, models, run, engine.
"""
