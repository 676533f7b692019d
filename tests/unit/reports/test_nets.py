"""Networks on a page: the found one next to DeiT scaled by hand, and their drawings.

Reference: the specs.
"""

import json
import re

from tests.helpers.runs import search
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, read_spec
from vitas_ds.reports import net_drawing, nets, run_page
from vitas_ds.reports.candidates import Candidates, read_candidates
from vitas_ds.reports.net_drawing import BAR, Scale
from vitas_ds.run.files import write_json
from vitas_ds.run.summary import update_summary
from vitas_ds.stages import report

SPEC = SubnetSpec(28, 7, 48, 10, (LayerSpec(2, 96, 48), LayerSpec(4, 192, 96)))


def test_the_drawing_is_to_scale():
    text = net_drawing.draw("<n>", SPEC, Scale(96, 192, 192))
    bars = re.findall(r'class="bar c(\d)" [^>]*width="([\d.]+)"', text)
    expected = [("3", 48 / 96), ("1", 96 / 192), ("2", 48 / 192), ("1", 1.0), ("2", 0.5)]
    assert bars == [(color, f"{BAR * share:.1f}") for color, share in expected]
    assert [len(d.split("M")) - 1 for d in re.findall(r'class="cut" d="([^"]+)"', text)] == [1, 3]  # between heads
    assert "4 x 4 patches of 7 px: 16 tokens of 48 channels" in text and "&lt;n&gt;" in text and "<n>" not in text
    assert len(re.findall("[Mh]", re.search(r'class="cells" d="([^"]+)"', text)[1])) == 15  # 5 lines each way


def test_the_network_scaled_by_hand_is_within_the_budget(config):
    run, best = search(config)
    low, high = spec_macs(best.spec) * 0.9, spec_macs(best.spec) * 1.5
    limited = config.model_copy(update={"search": config.search.model_copy(update={"macs": (low, high)})})
    (network,) = nets.baseline(limited, best.spec, Candidates())
    assert network.name == nets.BASELINE and low <= network.macs <= high
    budgets = "macs<=1000", f"{low:.0f}<=macs<={high:.0f}"
    several = config.model_copy(update={"search": config.search.model_copy(update={"budgets": budgets})})
    assert nets.baseline(several, best.spec, Candidates())[0].name == nets.BASELINE
    (network,) = nets.baseline(config, best.spec, Candidates())
    assert network.name == f"{nets.BASELINE_MACS} {nets.short(spec_macs(best.spec))} MACs"
    assert spec_macs(best.spec) / 2 <= network.macs <= spec_macs(best.spec)
    found = nets.compared_networks(run, config, read_candidates(run, config))
    assert [n.name for n in found] == ["best candidate", network.name]


def test_the_page_says_how_to_train_it(config):
    run, _ = search(config)
    report.run(config)
    path = nets.hand_scaled_file(run)
    (network,) = nets.baseline(config, nets.own_networks(run)[0].spec, Candidates())
    assert read_spec(path) == network.spec
    assert f"vitas retrain {run.path} retrain.spec={path} run.name=a_by_hand" in run.report.read_text()


def test_latencies_are_in_the_table(config):
    run, best = search(config)
    rows = json.loads(run.best.read_text())
    rows["top"][0] |= {"predicted_latency": 3e-3, "latency": 4e-3, "latency_spread": 1e-4,
                       "latency_also": {"1": {"seconds": 5e-4}}}  # fmt: skip
    write_json(run.best, rows)
    setting = {"device": "CPU", "runtime": "torch", "precision": "fp32", "batch_size": 32}
    assert "latency" not in nets.section(nets.own_networks(run), config)["header"]
    update_summary(run, "search", {"latency": setting, "best": rows["top"][0]})
    found = nets.section(nets.own_networks(run), config)
    assert found["header"][-1] == "latency"
    text = "latency of 32 images: 4 ms (spread 0.1 ms), CPU, torch, fp32; latency of 1 image: 0.5 ms, CPU, torch, fp32"
    assert found["rows"][0][-1] == text and text in run_page.render(run)
    assert best.spec == nets.own_networks(run)[0].spec
