"""Output of ``vitas cost`` and ``vitas space``.

References: published costs, and sums over the printed numbers.
"""

import json

import pytest
from hypothesis import given, settings

from tests.helpers.strategies import spaces, spaces_and_specs
from vitas_ds.__main__ import main
from vitas_ds.arch import genome
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import SearchSpace
from vitas_ds.errors import UserError
from vitas_ds.tools.cost import cost_json, cost_table, run_cost, si
from vitas_ds.tools.plot import plot_net
from vitas_ds.tools.space import describe_space, run_space


@pytest.mark.parametrize("name", names())
def test_json_of_published_networks(name):
    data = json.loads(run_cost([name], as_json=True))
    assert list(data) == ["macs", "vitas_flops", "params", "activations"]
    assert all(isinstance(value, int) for value in data.values())
    assert data == cost_json(published(name, first_release=True).spec)


def test_json_of_several_networks_and_a_file(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(published("vitas-a").spec.to_dict()))
    data = json.loads(run_cost(["vitas-c", str(path)], as_json=True))
    assert data == {"vitas-c": cost_json(published("vitas-c").spec), str(path): cost_json(published("vitas-a").spec)}


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs())
def test_layers_and_rest_add_up(space_and_spec):
    _, spec = space_and_spec
    costs = cost_json(spec, layers=True)
    assert [(x["num_heads"], x["qkv_dim"], x["mlp_dim"]) for x in costs["layers"]] == [
        (x.num_heads, x.qkv_dim, x.mlp_dim) for x in spec.active
    ]
    n, D, C = spec.num_patches, spec.embed_dim, spec.num_classes
    stem = n * 3 * spec.patch_size**2 * D
    assert costs["macs"] - sum(x["macs"] for x in costs["layers"]) == stem + D * C
    assert costs["params"] - sum(x["params"] for x in costs["layers"]) == (
        3 * spec.patch_size**2 * D + D + D + (n + 1) * D + 2 * D + D * C + C
    )
    assert {k: v for k, v in costs.items() if k != "layers"} == cost_json(spec)
    lines = cost_table(spec, layers=True).splitlines()
    assert sum(line.startswith("  layer") for line in lines) <= spec.depth
    assert len({len(line) for line in lines[lines.index("") + 1 :]}) == 1  # aligned


def test_table_has_every_number():
    text = run_cost(["vitas-c"], layers=True)
    for word in ("224 x 224", "patch 16", "embed_dim 230", "12 layers", "1.265G", "1.303G", "6.048M", "20.6 MiB"):
        assert word in text
    assert "layers 0-11, each" in text
    assert "1.3G FLOPs, top-1 74.7 %, top-5 92.0 %" in text
    assert "top-5" not in run_cost(["deit-ti"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000k"),
        (9999.6, "10.00k"),
        (99996, "100.0k"),
        (1265114864, "1.265G"),
        (4e15, "4000.0T"),
    ],
)
def test_si_has_four_digits(value, text):
    assert si(value) == text


def test_unknown_network_is_an_error():
    with pytest.raises(UserError, match="vitas-d: neither a spec file nor a published network"):
        run_cost(["vitas-a", "vitas-d"])


@pytest.mark.parametrize("nets", [["vitas-a"], ["vitas-a", "vitas-f", "deit-ti"]])
def test_plot(nets, tmp_path):
    path = tmp_path / "nets.png"
    run_cost(nets, plot=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    width, height = (int.from_bytes(path.read_bytes()[at : at + 4], "big") for at in (16, 20))
    assert width > 800 and height == pytest.approx(150 * (0.8 + 2.7 * len(nets)), abs=2)


def test_plots_are_deterministic(tmp_path):
    drawn = []
    for name in ("vitas-a", "vitas-b", "vitas-a"):
        plot_net(published(name).spec, tmp_path / "net.png")
        drawn.append((tmp_path / "net.png").read_bytes())
    assert drawn[0] == drawn[2] != drawn[1]


def test_plot_that_cannot_be_written_is_an_error(tmp_path):
    for path in (tmp_path / "no" / "folder.png", tmp_path / "net.what"):
        with pytest.raises(UserError, match=r"(folder\.png|net\.what): cannot be written: "):
            run_cost(["vitas-a"], plot=path)


@settings(max_examples=20, deadline=None)
@given(spaces())
def test_space_has_size_costs_and_genes(space):
    text = describe_space(space)
    assert f"{genome.count_subnets(space):,} distinct subnets" in text or "e+" in text
    for end in (genome.smallest, genome.largest):
        assert si(cost_json(genome.decode(space, end(space)))["macs"]) in text
    for widths in (space.embed_widths, space.qkv_widths, space.mlp_widths, space.patch_sizes, space.num_heads):
        assert " ".join(str(width) for width in widths) in text


def test_space_of_the_1g_recipe(tmp_path):
    text = describe_space(SearchSpace())
    assert text.startswith("1.3e+43 distinct subnets")
    assert "3 6 12 16 identity" in text
    path = tmp_path / "recipe.yaml"
    path.write_text("space: {depth: 3}")
    assert "largest subnet" in run_space(str(path), ["space.identity=false"])
    with pytest.raises(UserError, match=r"space\.depht"):
        run_space(str(path), ["space.depht=4"])


def test_command_line(capsys, tmp_path):
    assert main(["cost", "vitas-c", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["macs"] == 1_265_114_864 and err == ""
    assert main(["cost", "vitas-c", "vitas-a", "--layers", "--plot", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.count("stem, norm, classifier") == 2
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("space: {depth: 3}")
    assert main(["space", str(recipe), "space.layout=cell"]) == 0
    assert "layout cell" in capsys.readouterr().out
    assert main(["cost", "vitas-d"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
