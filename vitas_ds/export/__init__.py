"""Models outside of a run: the exported folder, its model card, and conversions.

``folder`` writes and reads an exported model, ``to_timm`` and ``to_onnx`` convert it, and ``first_release`` imports
checkpoints of the method's first release.

May import: errors, arch, config, distributed, data, models, run, engine.
"""
