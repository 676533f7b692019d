"""Time the scoring of the same candidates on several ranks, in wall-clock and CPU time. bench_growth starts this.

    torchrun --nproc_per_node 2 -m tests.benchmarks.scoring_ranks NETS IMAGES SIZE [DEVICE]

It scores NETS subnets of the 1G space on random images of SIZE pixels, with one thread per rank. Rank 0 prints a JSON
object.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch

from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.distributed import comm
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.scoring.scorer import Scorer


def main(count: int, images: int, size: int, device: str) -> None:
    """Score the subnets and print the times."""
    ranks = comm.init(device, 600)
    torch.set_num_threads(1)
    space = SearchSpace(image_size=size)
    supernet = Supernet(space, "bilateral", class_token_only=True).to(ranks.device)
    init_weights(supernet, 0)
    pixels = torch.randint(256, (images, 3, size, size), dtype=torch.uint8)
    scorer = Scorer(
        supernet, pixels, torch.zeros(images, dtype=torch.int64), lambda x: x / 255, np.arange(images), ranks
    )
    subnets = genome.decode_all(space, genome.sample(space, np.random.default_rng(0), count))
    subnets = sorted(subnets, key=cost.spec_macs)  # those scored at the same time cost the same, as in a narrow budget
    list(scorer(subnets[: ranks.world_size]))
    comm.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    list(scorer(subnets))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    slowest = max(comm.gather(cpu))
    if ranks.is_main:
        print(json.dumps({"ranks": ranks.world_size, "seconds": wall, "CPU seconds of a rank": slowest}))
    comm.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), device=(sys.argv[4:] or ["cpu"])[0])
