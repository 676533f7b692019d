"""Runs inside a launcher: ``search_worker.py FOLDER MEMBERS KILL_AFTER RACING``: a search with a real supernet.

Ranks in groups of MEMBERS share a candidate. After KILL_AFTER new scores (0: never) all ranks end as if killed.
RACING is the confidence of a race, whose looks are counted as scores; 0: there is none.
"""

import os
import sys
from pathlib import Path

import torch

from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Search
from vitas_ds.distributed import comm
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.finalists import rescore
from vitas_ds.search.loop import ranked, search
from vitas_ds.search.results import write_results
from vitas_ds.search.scoring.ledger import open_ledger
from vitas_ds.search.scoring.racing import Race
from vitas_ds.search.scoring.scorer import Scorer, balanced_order, looks

SPACE = SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8, 16), embed_dim=64, depth=4, num_heads=(1, 2, 4),
    qkv_dim=96, mlp_dim=128, ratios=(0.25, 0.5, 0.75, 1.0),
)  # fmt: skip


def main(folder: Path, members: int, kill_after: int, racing: float) -> None:
    ranks = comm.init("cpu", 60)
    torch.manual_seed(0)
    supernet = Supernet(SPACE, "bilateral")
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pixels = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(70) % 10

    def scorer(count: int) -> Scorer:
        order = balanced_order(labels.numpy(), count, 0)
        prepare = lambda x: x.float() / 64 - 2  # noqa: E731
        return Scorer(supernet, pixels, labels, prepare, order, ranks, 16, ranks_per_candidate=members)

    def broken(score):
        def scores(specs):
            for value in score(specs):
                if kill_after and known[0] == kill_after:
                    os._exit(0)
                known[0] += 1
                yield value

        return scores

    used, full, known, rules = scorer(40), scorer(0), [0], None
    run = RunDir(folder)
    ledger = open_ledger(run.ledger, {"supernet": "a"}, is_main=ranks.is_main)
    if racing:
        parts = [(images, broken(score)) for images, score in looks(used)]
        rules = Race(parts, racing, open_ledger(run.races, {"supernet": "a"}, is_main=ranks.is_main))
    cfg = Search(algorithm="nsga2", population=7, generations=3, macs=(100_000, 800_000), images=40, top_k=3)
    result = search(SPACE, cfg, broken(used), ledger, 0, images=40, race=rules)
    top = rescore(ranked(result.entries)[: cfg.top_k], full, ledger, full.images)
    if ranks.is_main:
        write_results(run, result, top)
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
