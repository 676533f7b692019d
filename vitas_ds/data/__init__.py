"""Load images from folders or tar shards as batches, with NVIDIA DALI on GPUs and CPUs.

``read_folder`` returns an ``ImageSet``; ``train_batches`` and ``eval_batches`` yield ``Batch`` objects. Only the
modules ``dali``, ``dali_crop`` and ``dali_augment`` import DALI, and ``lazy`` imports them when images are loaded.

May import: errors, config, distributed.
"""
