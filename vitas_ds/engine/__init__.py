"""The training step with DeepSpeed: ZeRO stages, precision, and an AdamW that leaves unused weights unchanged.

``Engine`` wraps a model. ``ds_config`` builds the DeepSpeed configuration, and ``memory`` estimates the memory per GPU.
This is the only package that imports deepspeed.

May import: errors, arch, config, distributed, models.
"""
