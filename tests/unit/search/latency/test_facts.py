"""The latencies of a network in words, for the console, the report and the model card."""

from tests.helpers.searches import SMALL
from vitas_ds.arch import genome
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import update_summary
from vitas_ds.search.latency.facts import describe_row, latency_facts

SETTING = {
    "device": "Xeon", "runtime": "onnxruntime", "precision": "fp32", "threads": 2, "batch_size": 32,
    "nets": 48, "error": 0.02, "correlation": 0.99, "dropped": 0,
}  # fmt: skip
WHERE = "Xeon, onnxruntime, fp32, 2 threads"
ROW = {"latency": 0.05, "latency_spread": 0.001, "latency_also": {"1": {"seconds": 0.002, "spread": 1e-4, "runs": 50}}}
FACTS = {
    "latency of 32 images": f"50 ms (spread 1 ms), {WHERE}", "latency of 1 image": f"2 ms (spread 0.1 ms), {WHERE}",
}  # fmt: skip


def test_measured_and_predicted_latencies():
    assert describe_row(ROW, SETTING) == FACTS
    assert describe_row({"latency": 0.05}, SETTING) == {"latency of 32 images": f"50 ms, {WHERE}"}
    predicted = describe_row({"predicted_latency": 0.05}, SETTING)
    assert predicted == {"latency of 32 images": f"50 ms, predicted for {WHERE}"}


def test_the_latency_of_a_network_of_the_search(tmp_path):
    run = RunDir(tmp_path / "run")
    best, front, other = (
        genome.decode(SMALL, row).canonical()
        for row in (genome.smallest(SMALL), genome.largest(SMALL), genome.largest(SMALL) - 1)
    )
    assert latency_facts(run, best) == {}
    write_json(run.best, {"top": [{"spec": best.to_dict()} | ROW]})
    write_json(run.pareto, [{"spec": front.to_dict(), "predicted_latency": 1.0}])
    assert latency_facts(run, best) == {}, "a search without latency"
    update_summary(run, "search", {"latency": SETTING})
    assert latency_facts(run, best) == FACTS
    assert latency_facts(run, front) == {"latency of 32 images": f"1000 ms, predicted for {WHERE}"}
    assert latency_facts(run, other) == {}
