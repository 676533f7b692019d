"""Start from a pretrained network: measure the importance of its units, and sort them without changing its outputs.

``importance`` measures, ``scores`` is its file, ``order`` and ``reorder`` sort, ``views`` makes two views of an image.

May import: errors, arch, config, distributed, data, models, run, engine.
"""
