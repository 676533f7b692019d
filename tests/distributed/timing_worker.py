"""Worker of a distributed test, started by a launcher as ``timing_worker.py FOLDER``.

Each rank writes its predicted and measured latencies to a file."""

import json
import sys
from pathlib import Path

import numpy as np
from search_worker import SPACE

from vitas_ds.arch import genome
from vitas_ds.config import Config, Search
from vitas_ds.distributed import comm
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.latency.calibration import calibrate
from vitas_ds.search.runtime import open_runtime


def main(folder: Path) -> None:
    ranks, run = comm.init("cpu", 60), RunDir(folder / "run")
    config = Config(space=SPACE, search=Search(latency_batch_size=2, latency_nets=12, latency_runtime="torch"))
    runtime = open_runtime(config, ranks.device)
    model = calibrate(config, run, run.search_latency, runtime, {"macs": (100_000, 800_000)})
    genomes = genome.sample(SPACE, np.random.default_rng(0), 3, 0.2)
    measured = model.cache.measure([genome.decode(SPACE, row).canonical() for row in genomes])
    prices = model.predictor.coefficients.tolist()
    result = {"numbers": model.summary(), "prices": prices, "measured": measured.tolist()}
    (folder / f"{ranks.rank}.json").write_text(json.dumps(result))
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
