"""The training step with DeepSpeed: ZeRO stages, precision, and an AdamW that leaves unused weights unchanged.

``Engine`` wraps a model. ``ds_config`` builds DeepSpeed's configuration and ``memory`` estimates what a GPU needs. This
is the only package that imports deepspeed.

May import: errors, arch, config, distributed, models.
"""
