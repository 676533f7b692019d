"""Run a search with a real supernet, started by a launcher: ``search_worker.py FOLDER GROUP_SIZE KILL_AFTER RACING``.

Groups of GROUP_SIZE ranks share a candidate; 0 for one group of all ranks. After KILL_AFTER new scores, all ranks exit
as if killed; 0 for never. RACING is the confidence of racing, where each round counts as a score; 0 for no racing.
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
from vitas_ds.search.confirm import rescore
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import ranked
from vitas_ds.search.results import write_results
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import open_ledger
from vitas_ds.search.scoring.racing import Race, Round
from vitas_ds.search.scoring.scorer import Scorer, balanced_order, split_rounds

SPACE = SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8, 16), embed_dim=64, depth=4, num_heads=(1, 2, 4),
    qkv_dim=96, mlp_dim=128, ratios=(0.25, 0.5, 0.75, 1.0),
)  # fmt: skip


def main(folder: Path, group_size: int, kill_after: int, racing: float) -> None:
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
        return Scorer(supernet, pixels, labels, prepare, order, ranks, 16, ranks_per_candidate=group_size)

    def dying(score):
        def scores(specs):
            nonlocal count
            for value in score(specs):
                if kill_after and count == kill_after:
                    os._exit(0)
                count += 1
                yield value

        return scores

    partial, full, count, race = scorer(40), scorer(0), 0, None
    run = RunDir(folder)
    ledger = open_ledger(run.ledger, {"supernet": "a"}, is_main=ranks.is_main)
    if racing:
        rounds = [Round(r.images, dying(r.score)) for r in split_rounds(partial)]
        race = Race(rounds, racing, open_ledger(run.races, {"supernet": "a"}, is_main=ranks.is_main))
    cfg = Search(algorithm="nsga2", population=7, generations=3, macs=(100_000, 800_000), images=40, top_k=3)
    result = run_loop(SearchProblem(SPACE, cfg, 0), Evaluator(dying(partial), ledger, 40), race)
    top = rescore(ranked(result.candidates)[: cfg.top_k], Evaluator(full, ledger, full.images))
    if ranks.is_main:
        write_results(run, result, top)
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
