"""Models outside of a run: exported folders, model cards and conversions.

``folder`` writes and reads exported models, ``to_timm`` and ``to_onnx`` convert them, and ``first_release`` imports
checkpoints of the first release of ViTAS.

May import: errors, arch, config, distributed, data, models, run, engine.
"""
