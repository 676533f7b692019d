"""Runs inside a launcher: ``timing_worker.py FOLDER``: each rank writes what it holds of the latencies."""

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


def main(folder: Path) -> None:
    ranks, run = comm.init("cpu", 60), RunDir(folder / "run")
    config = Config(space=SPACE, search=Search(latency_batch_size=2, latency_nets=12))
    timing = calibrate(config, run, run.search_latency, ranks.device, {"macs": (100_000, 800_000)})
    nets = genome.sample(SPACE, np.random.default_rng(0), 3, 0.2)
    measured = timing.cache.measure([genome.decode(SPACE, net).canonical() for net in nets])
    told = {"numbers": timing.summary(), "prices": timing.predictor.coefficients.tolist(), "measured": measured.tolist()}
    (folder / f"{ranks.rank}.json").write_text(json.dumps(told))
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
