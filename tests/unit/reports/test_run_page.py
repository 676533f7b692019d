"""The report: numbers land where they belong, the page stands alone, and a real browser draws and hovers it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.helpers.runs import search, train
from vitas_ds.__main__ import main
from vitas_ds.arch import cost
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.reports import comparison, nets, run_page
from vitas_ds.reports.svg import Axis, Series, chart, short, ticks
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import update_summary
from vitas_ds.run.start import open_run
from vitas_ds.search.results import write_baselines
from vitas_ds.stages import report

VOID = {"meta", "link", "img", "br", "line", "rect", "circle", "polyline"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Every element with its attributes, and what is not closed or closed twice."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def test_page_stands_alone(run, config, capsys):
    report.run(config)
    text = (run.report / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed")
        assert "srcset" not in attributes and attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "data:,") == "data:,"
    assert not re.search(r"https?://|@import|url\(|fetch\(", text)
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "<b>images</b>" not in text and "&lt;b&gt;images" in text
    assert "--c1" in text and "prefers-color-scheme: dark" in text and "width=device-width" in text
    out = capsys.readouterr().out
    assert "top-1 95.12%, top-5 99.87% of 1,000 images" in out and str(run.report / "index.html") in out


def test_numbers_on_the_page(run, config):
    page = Page(run_page.render(run))
    _, best = search(config)
    for text in ("95.12%", "99.87%", f"{best.costs['macs']:,}", f"{best.costs['params']:,}", "12 nets scored", "2:30"):
        assert text in page.text, text
    charts = [a for tag, a in page.elements if tag == "svg" and a["class"] == "chart"]
    assert len(charts) == 6 + 3 + 6
    tips = [a["data-tip"] for tag, a in page.elements if tag == "circle"]
    assert sum("parameters" in tip for tip in tips) == 12 + 1 + 1  # every net, the front, the chosen one
    layers = [a["data-tip"] for tag, a in page.elements if tag == "g"]
    layers = [tip for tip in layers if tip.startswith("layer")]
    assert len(layers) == best.spec.depth
    assert layers[0].startswith(f"layer 1: {best.spec.active[0].num_heads} heads")


def test_marginals_are_shares(run, config):
    """Of the bars' tips: a choice's values add up to the whole, before and after; a count by hand agrees."""
    tips = [a["data-tip"] for tag, a in Page(run_page.render(run)).elements if tag == "g"]
    patches = [tip for tip in tips if tip.startswith("Patch size")]
    assert [tip.split(":")[0] for tip in patches] == ["Patch size 4", "Patch size 7"]
    for name in ("first generation", "best at the end"):
        assert 99 <= sum(int(re.search(rf"(\d+)% {name}", tip)[1]) for tip in patches) <= 101
    rows = [json.loads(line) for line in run.ledger.read_text().splitlines()]
    first = [row["spec"]["patch_size"] for row in rows if row["generation"] == 1]
    assert f"{first.count(4) / len(first):.0%} first generation" in patches[0]


def test_baselines_and_pictures(run, config):
    from PIL import Image

    plain = run_page.render(run)
    assert "What a search has to beat" not in plain and "<img" not in plain
    _, best = search(config)
    write_baselines(run.search, {"random": [best], "uniform": [best, best]})
    run.supernet.mkdir()
    Image.new("RGB", (64, 64), "red").save(run.supernet / "images.png")
    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run.path / "evaluation_images.png")  # 4 MB
    page = Page(run_page.render(run))
    assert "uniform" in page.text and "What a search has to beat" in page.text
    kinds = [a["src"][:18] for tag, a in page.elements if tag == "img"]
    assert kinds == ["data:image/png;bas", "data:image/jpeg;ba"]
    assert len(run_page.render(run)) < len(plain) + 1_500_000


def test_published_nets_of_equal_cost_beside_the_found_one(config):
    """DeiT-S costs 4.6G: its neighbours are the large ViTAS nets; small images have none to be compared with."""
    from vitas_ds.arch.published import published

    deit = published("deit-s").spec
    found = nets.neighbours(deit)
    assert found[0].name == "deit-s" and len(found) == 3
    ratios = [max(net.macs / found[0].macs, found[0].macs / net.macs) for net in found[1:]]
    others = [published(f"vitas-{c}").spec for c in "abcef" if f"vitas-{c}" not in {net.name for net in found}]
    assert all(max(cost.spec_macs(o) / found[0].macs, found[0].macs / cost.spec_macs(o)) >= max(ratios) for o in others)
    assert "its paper's" in found[0].accuracy
    run, best = search(config)
    assert nets.neighbours(best.spec) == [] and "deit" not in run_page.render(run)
    large = config.model_copy(update={"space": SearchSpace(), "run": config.run.model_copy(update={"name": "large"})})
    run, best = search(large)
    text = run_page.render(run)
    assert text.count('<svg class="net"') == 1 + 3 and text.count("deit-") == 3 and "its paper&#x27;s" in text


def test_two_runs(run, config, tmp_path, capsys):
    other = Config.model_validate(config.model_dump() | {"run": {"name": "b", "dir": str(tmp_path), "seed": 7}})
    train(other, "train-supernet", steps=30)
    search(other)
    report.compare(config, other)
    text = (run.report / "a_against_b.html").read_text()
    page = Page(text)
    assert page.open == [] and not re.search(r"https?://|@import|url\(|fetch\(|\bnan\b", text)
    assert comparison.differences(config, other) == [("run.seed", "0", "7")]
    rows = {row[0]: row[1:] for row in comparison.results((run, report.run_of(other)))}
    assert rows["top-1 on val"] == ("95.12%", "") and rows["supernet: steps"] == ("600", "30")
    lines = [a["class"] for tag, a in page.elements if tag == "polyline"]
    assert lines.count("line c1") > 4 and lines.count("line c2") > 4
    assert "95.12%" in capsys.readouterr().out
    with pytest.raises(UserError, match="not compared with itself"):
        report.compare(config, config)


def test_a_run_is_named_by_folder_recipe_or_name(run, config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for word, overrides in ((str(run.path), []), ("a", ["run.dir=."]), ("a/", [])):
        assert report.run_of(report.find(word, overrides)).path.resolve() == run.path.resolve()
    assert report.find("quickstart", ["run.seed=3"]).run.seed == 3
    moved = run.path.rename(tmp_path / "moved")
    assert report.find("moved", []).run.name == "moved"
    assert main(["report", str(moved)]) == 0 and (moved / "report" / "index.html").exists()
    capsys.readouterr()
    assert main(["report", "no_such"]) == 2
    assert main(["report", "moved", "quickstart"]) == 2
    assert main(["report", "moved", "a", "b"]) == 2
    (moved / "manifest.json").unlink()
    assert main(["report", "moved"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and "neither a run's folder, nor a recipe" in said[0] and "no such run" in said[1]
    assert "two runs are compared" in said[2] and "manifest.json" in said[3]


def test_stages_that_have_not_run_are_left_out(config):
    run = train(config, "train-supernet", steps=3)
    page = Page(run_page.render(run))
    headings = re.findall(r"<h2>(.*?)</h2>", run_page.render(run))
    assert headings == ["Results", "Supernet", "Reproduce"] and page.open == []


def test_no_such_run(config):
    with pytest.raises(UserError, match="no such run"):
        report.run(config)


def test_hypervolumes_of_different_budgets_are_not_compared(run, config, tmp_path):
    update_summary(run, "search", {"hypervolume": 0.5})
    for limit, compared in (((1.0, 2e9), False), (config.search.macs, True)):
        change = {"macs": limit}
        other = open_run(
            config.model_copy(update={
                "run": config.run.model_copy(update={"name": f"other{compared}"}),
                "search": config.search.model_copy(update=change),
            }), True,
        )  # fmt: skip
        update_summary(other, "search", {"hypervolume": 0.25})
        told = [row for row in comparison.results((run, other)) if row[0] == "hypervolume"]
        assert told == ([("hypervolume", "0.5", "0.25")] if compared else [])


@pytest.mark.parametrize(("file", "text"), [("manifest.json", "[]"), ("search/best.json", "{")])
def test_damaged_files_are_one_line(run, file, text, capsys):
    (run.path / file).write_text(text)
    assert main(["report", str(run.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_lines_of_metrics_that_are_none(run):
    rows = read_metrics(run)
    with run.metrics.open("a") as file:
        file.write('[1]\n{"loss": 1}\n')
    assert read_metrics(run) == rows


def test_commands_may_be_typed_again():
    def start(stage, ranks, *words):
        return {"stage": stage, "world_size": ranks, "command": ["python", *words]}

    starts = [
        start("train-supernet", 16, "-m", "vitas_ds", "train-supernet", "r") | {"local_world_size": 8},
        start("search", 1, "-m", "vitas_ds", "search", "r", "a.b=[1, 2]"),
        start("retrain", 1, "-m", "vitas_ds", "retrain", "r", "old=1"),
        start("retrain", 2, "-u", "-m", "vitas_ds", "--local_rank=0", "retrain", "r"),
    ]
    assert run_page.commands(starts) == [
        "deepspeed --hostfile HOSTS --module vitas_ds train-supernet r",
        "python -m vitas_ds search r 'a.b=[1, 2]'",
        "deepspeed --num_gpus 2 --module vitas_ds retrain r",
    ]


def test_versions_are_told_for_each_stage_where_they_differ():
    def start(stage, git):
        return {"stage": stage, "git": git, "versions": {"torch": "2.0", "wandb": None}, "machine": {"host": "h"}}

    (_, table) = run_page._versions([start("search", "a1"), start("search", "b2"), start("export", "c3")])
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", table)
    assert cells == [
        "git commit, search", "b2", "git commit, export", "c3", "torch", "2.0", "wandb", "not installed",
        "machine", "h",
    ]  # fmt: skip


def test_chart_places_points_to_scale():
    text = chart("t", [Series("s", [0, 5, 10], [1.0, 2.0, 3.0], dots=True)], Axis("x"), Axis("y"))
    places = [(float(a), float(b)) for a, b in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', text)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x0 < x1 and y0 > y1  # upwards is more


@pytest.mark.parametrize("ys", [[], [None], [5.0], [0.0], [2.0, 2.0, 2.0], [-1e-9, 1e9]])
def test_chart_of_anything(ys):
    text = chart("t", [Series("s", list(range(len(ys))), ys)], Axis("x"), Axis("y"))
    assert ("<svg" in text) == any(y is not None for y in ys)
    assert "nan" not in text and "inf" not in text


def test_a_long_line_is_thinned_and_keeps_its_end():
    ys = [float(i) for i in range(10_001)]
    text = chart("t", [Series("s", ys, ys)], Axis("x"), Axis("y"))
    assert 200 < text.count("<circle") <= 402 and "s 10k" in text


def test_ticks_and_short():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.912, 0.958) == pytest.approx([0.92, 0.93, 0.94, 0.95])
    assert [short(x) for x in (0, 1.3e9, 42_000, 0.05, 2e-5, 170842)] == ["0", "1.3G", "42k", "0.05", "2e-05", "171k"]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize(("kind", "drawn"), [("one", 15 + 6 + 1), ("two", 4 + 3 + 2 + 4)])
def test_in_a_browser(run, config, tmp_path, kind, drawn):
    """Charts have a size, hovering a point says its tip, no error comes up, nothing is wider than a phone."""
    text = run_page.render(run)
    if kind == "two":
        other = Config.model_validate(config.model_dump() | {"run": {"name": "b" * 60, "dir": str(tmp_path)}})
        train(other, "train-supernet", steps=30)
        text = comparison.render(run, search(other)[0])
    probe = """<script>
      const mark = document.querySelector('svg.chart circle[data-tip*="parameters"]');
      mark.scrollIntoView();
      const box = mark.getBoundingClientRect();
      mark.dispatchEvent(new PointerEvent('pointermove',
        {bubbles: true, clientX: box.x + 1, clientY: box.y + 1}));
      const said = document.getElementById('tip').textContent;
      const sizes = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height);
      document.title = JSON.stringify({said, least: Math.min(...sizes), count: sizes.length,
        overflow: document.documentElement.scrollWidth - innerWidth});
    </script>"""
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", probe + "</body>"))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
             "--window-size=500,900", "--enable-logging=stderr", "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=90)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    seen = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert "parameters" in seen["said"] and seen["least"] > 60 and seen["count"] == drawn and seen["overflow"] <= 0
