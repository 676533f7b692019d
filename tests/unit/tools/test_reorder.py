"""``vitas reorder``: sorted units, equal logits, and the original order after an export."""

import pytest
import torch
from safetensors.torch import load_file

import vitas_ds
from tests.helpers.networks import random_network
from tests.helpers.paths import FIXTURES
from vitas_ds.__main__ import main
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm
from vitas_ds.elastic.order import NAME, read_order
from vitas_ds.elastic.reorder import restore
from vitas_ds.elastic.scores import LayerScores, Scores, write_scores
from vitas_ds.export.card import read_license
from vitas_ds.export.folder import Preprocess, weights_digest, write_model

SPEC = SubnetSpec(28, 7, 32, 10, (LayerSpec(2, 96, 64),) * 2, prefix_tokens=3, layer_scale=True)


@pytest.fixture
def model(tmp_path):
    write_model(random_network(SPEC), tmp_path / "net", Preprocess(28), "net", {"origin": "here"}, license="mit")
    return tmp_path / "net"


def scores(weights: str | None) -> Scores:
    def draw(n: int) -> tuple[float, ...]:
        return tuple(torch.rand(n, generator=torch.Generator().manual_seed(n)).tolist())

    layer = LayerScores(draw(2), draw(32), draw(32), draw(64), 0.5, 0.5, 0.5)
    return Scores(weights or "", "data", 9, "labels", draw(32), (layer, layer))


def test_sorted_units_and_the_way_back(model, tmp_path, capsys):
    write_scores(tmp_path / "a.json", scores(weights_digest(model)))
    out = tmp_path / "sorted"
    assert main(["reorder", str(model), "--importance", str(tmp_path / "a.json"), "--out", str(out)]) == 0
    before, after = vitas_ds.load(model), vitas_ds.load(out)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(after(images), before(images), rtol=1e-4, atol=1e-4)
    order, mlp = read_order(out, SPEC), scores("").layers[0].mlp
    assert [mlp[i] for i in order.layers[0].mlp] == sorted(mlp, reverse=True)
    assert torch.equal(after.blocks[0].mlp.fc1.bias, before.blocks[0].mlp.fc1.bias[list(order.layers[0].mlp)])
    assert read_license(out) == "mit" and "sorted by importance on 9 images" in (out / "README.md").read_text()
    words = [str(FIXTURES / "tiny.yaml"), f"run.dir={tmp_path}/runs", "run.name=a", f"export.model={out}"]
    try:
        assert main(["export", *words]) == 0
    finally:
        comm.close()
    exported, original = (load_file(f / "model.safetensors") for f in (tmp_path / "runs" / "a" / "export", model))
    assert all(torch.equal(exported[name], value) for name, value in original.items())
    card = (tmp_path / "runs" / "a" / "export" / "README.md").read_text()
    assert "sorted by importance" not in card and "here" in card
    assert not (tmp_path / "runs" / "a" / "export" / NAME).exists()


def test_mistakes_are_one_line(model, tmp_path, capsys):
    write_scores(tmp_path / "a.json", scores("of another model"))
    words = ["reorder", str(model), "--importance", str(tmp_path / "a.json"), "--out"]
    assert main([*words, str(tmp_path / "sorted")]) == 2
    assert "measured with other weights; start importance again" in capsys.readouterr().err
    assert main([*words, str(model)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_second_reordering_leads_back_to_the_original_too(model, tmp_path):
    folder, twice = model, tmp_path / "twice"
    for out in (tmp_path / "once", twice):
        write_scores(tmp_path / "a.json", scores(weights_digest(folder)))
        assert main(["reorder", str(folder), "--importance", str(tmp_path / "a.json"), "--out", str(out)]) == 0
        folder = out
    net, original = vitas_ds.load(twice), vitas_ds.load(model).state_dict()
    restore(net, read_order(twice, SPEC))
    assert all(torch.equal(value, original[name]) for name, value in net.state_dict().items())
