"""Images from folders or tar shards to batches, with NVIDIA DALI on GPUs and CPUs.

``read_folder`` returns an ``ImageSet``; ``train_batches`` and ``eval_batches`` yield ``Batch`` objects. Only ``dali``
imports DALI.

May import: errors, config, distributed.
"""
