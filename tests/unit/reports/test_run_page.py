"""The HTML report: its numbers, its single file, and its look in Chromium.

References: the files of the run, and Chromium.
"""

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
from vitas_ds.reports.candidates import Candidates
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import update_summary
from vitas_ds.search.results import write_baselines
from vitas_ds.stages import report

VOID = {"meta", "link", "img", "br", "line", "rect", "circle", "polyline", "path"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """All elements with their attributes; checks that every element is closed once."""

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


def test_page_is_self_contained(run, config, capsys):
    report.run(config)
    text = run.report.read_text()
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
    assert "top-1 95.12%, top-5 99.87% of 1,000 images" in out and str(run.report) in out


def test_page_shows_the_numbers(run, config):
    page = Page(run_page.render(run))
    _, best = search(config)
    for text in (
        "95.12%",
        "99.87%",
        f"{best.costs['macs']:,}",
        f"{best.costs['params']:,}",
        "12 candidates scored",
        "2:30",
    ):
        assert text in page.text, text
    charts = [a for tag, a in page.elements if tag == "svg" and a["class"] == "chart"]
    assert len(charts) == 6 + 3 + 6
    tips = [a["data-tip"] for tag, a in page.elements if tag == "circle"]
    assert sum("parameters" in tip for tip in tips) == 12 + 1 + 1  # every candidate, the front, the chosen one
    layers = [a["data-tip"] for tag, a in page.elements if tag == "g"]
    layers = [tip for tip in layers if tip.startswith("layer")]
    (by_hand,) = nets.baseline(config, best.spec, Candidates())
    assert len(layers) == best.spec.depth + by_hand.spec.depth
    assert layers[0].startswith(f"layer 1: {best.spec.active[0].num_heads} heads")


def test_marginals_are_shares_of_all_candidates(run, config):
    """The shares of a choice add up to 100 %, and equal a count of the ledger."""
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
    assert "Baselines with the same budget" not in plain and "<img" not in plain
    _, best = search(config)
    write_baselines(run, {"random": [best], "uniform": [best, best]})
    run.supernet.path.mkdir()
    Image.new("RGB", (64, 64), "red").save(run.supernet.images)
    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run.evaluation_images)  # 4 MB
    page = Page(run_page.render(run))
    assert "uniform" in page.text and "Baselines with the same budget" in page.text
    kinds = [a["src"][:18] for tag, a in page.elements if tag == "img"]
    assert kinds == ["data:image/png;bas", "data:image/jpeg;ba"]
    assert len(run_page.render(run)) < len(plain) + 1_500_000


def test_published_neighbors_have_similar_cost(config):
    """The neighbors of DeiT-S (4.6G) are the large ViTAS networks; no published network has small images."""
    from vitas_ds.arch.published import published

    deit = published("deit-s").spec
    found = nets.neighbors(deit)
    assert found[0].name == "deit-s" and len(found) == 3
    ratios = [max(net.macs / found[0].macs, found[0].macs / net.macs) for net in found[1:]]
    others = [published(f"vitas-{c}").spec for c in "abcef" if f"vitas-{c}" not in {net.name for net in found}]
    assert all(max(cost.spec_macs(o) / found[0].macs, found[0].macs / cost.spec_macs(o)) >= max(ratios) for o in others)
    assert "(paper)" in found[0].accuracy
    run, best = search(config)
    assert nets.neighbors(best.spec) == [] and "deit" not in run_page.render(run)
    large = config.model_copy(update={"space": SearchSpace(), "run": config.run.model_copy(update={"name": "large"})})
    run, best = search(large)
    text = run_page.render(run)
    assert text.count('<svg class="net"') == 1 + 1 + 3 and text.count("deit-") == 3 and "% (paper)" in text


def test_texts_of_files_are_printed_without_control_characters(capsys):
    report.print_columns([("a\x1b[2J", "b"), ("c", "\u202ed")])
    assert capsys.readouterr().out == "a\\x1b[2J  b\nc         \\u202ed\n"


def test_comparison_of_two_runs(run, config, tmp_path, capsys):
    other = Config.model_validate(config.model_dump() | {"run": {"name": "b", "dir": str(tmp_path), "seed": 7}})
    train(other, "train-supernet", steps=30)
    search(other)
    report.compare(config, other)
    text = run.report.with_name("a_against_b.html").read_text()
    page = Page(text)
    assert page.open == [] and not re.search(r"https?://|@import|url\(|fetch\(|\bnan\b", text)
    assert comparison.differences(config, other) == [("run.seed", "0", "7")]
    rows = {row[0]: row[1:] for row in comparison.results((run, report.run_of(other)))}
    assert rows["top-1 on val"] == ("95.12%", "") and rows["supernet: steps"] == ("600", "30")
    lines = [a["class"] for tag, a in page.elements if tag == "polyline"]
    assert lines.count("line c1") > 4 and lines.count("line c2") > 4
    assert "95.12%" in capsys.readouterr().out
    with pytest.raises(UserError, match="given twice; give two different runs"):
        report.compare(config, config)


def test_fronts_and_budgets_share_a_chart(run, config, tmp_path):
    """The budgets have the colors of their runs, and no entry in the legend."""
    runs = []
    for seed, most in ((1, 4e6), (2, 8e6)):
        settings = {"run": {"name": f"s{seed}", "dir": str(tmp_path), "seed": seed}, "search": {"macs": (1.0, most)}}
        runs.append(search(Config.model_validate(config.model_dump() | settings))[0])
    text = comparison.render(*runs)
    chart = re.search(r"<figure><figcaption>Fronts.*?</figure>", text)[0]
    assert "front of s1" in chart and "front of s2" in chart and "budget</span>" not in chart
    assert re.findall(r'class="limit (c\d)"', chart) == ["c2"] and chart.count('class="error') == 2


def test_find_accepts_folder_recipe_and_name(run, config, tmp_path, monkeypatch, capsys):
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
    assert main(["report", "moved", *"abcdef"]) == 2
    (moved / "manifest.json").unlink()
    assert main(["report", "moved"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and "no_such: no such recipe or run" in errors[0]
    assert "no such run" in errors[1] and "report compares 6 runs at most" in errors[2]
    assert "manifest.json" in errors[3]


def test_names_cannot_become_elements(config, tmp_path):
    """A folder whose name is an element, in a page and in a comparison."""
    name = '<img src="x" onerror="alert(1)">'
    runs = []
    for seed in (0, 1):
        run = {"name": f"r{seed}", "dir": str(tmp_path / name), "seed": seed}
        evil = Config.model_validate(config.model_dump() | {"run": run, "data": {"train": f"/{name}/x"}})
        train(evil, "train-supernet", steps=3)
        runs.append(search(evil)[0])
    for text in (run_page.render(runs[0]), comparison.render(*runs)):
        page = Page(text)
        assert page.open == [] and not [a for tag, a in page.elements if tag == "img" or "onerror" in a]
    report.run(evil)


def test_a_search_in_progress_has_candidates(config):
    run, _ = search(config)
    for path in (run.best, run.pareto, run.summary):
        path.unlink()
    page = Page(run_page.render(run))
    assert "All 12 candidates" in page.text and "Every scored candidate" in page.text and page.open == []


def test_a_search_killed_before_its_summary(run, config, capsys):
    """Only ``best.json`` has its numbers then."""
    summary = json.loads(run.summary.read_text())
    del summary["search"]
    run.summary.write_text(json.dumps(summary))
    best = json.loads(run.best.read_text())
    report.run(config)
    assert f"best {best['score']:.1%}" in capsys.readouterr().out
    assert "candidates scored" not in Page(run.report.read_text()).text


def test_page_omits_stages_that_have_not_run(config):
    run = train(config, "train-supernet", steps=3)
    page = Page(run_page.render(run))
    headings = re.findall(r"<h2>(.*?)</h2>", run_page.render(run))
    assert headings == ["Results", "Supernet", "Cost", "Reproduce"] and page.open == []


def test_missing_run_is_an_error(config):
    with pytest.raises(UserError, match="no such run"):
        report.run(config)


def test_comparison_omits_hypervolumes_of_different_budgets_or_scores(run, config, tmp_path):
    update_summary(run, "search", {"hypervolume": 0.5})
    corrected = config.search.check.model_copy(update={"nets": 8, "steps": 9, "correct": True})
    for name, change, compared in (
        ("limited", {"macs": (1.0, 2e9)}, False), ("corrected", {"check": corrected}, False), ("same", {}, True)
    ):  # fmt: skip
        other = open_run(
            config.model_copy(update={
                "run": config.run.model_copy(update={"name": name}),
                "search": config.search.model_copy(update=change),
            }), True,
        )  # fmt: skip
        update_summary(other, "search", {"hypervolume": 0.25})
        rows = [row for row in comparison.results((run, other)) if row[0] == "hypervolume"]
        assert rows == ([("hypervolume", "0.5", "0.25")] if compared else [])


@pytest.mark.parametrize(("file", "text"), [("manifest.json", "[]"), ("search/best.json", "{")])
def test_damaged_file_is_a_one_line_error(run, file, text, capsys):
    (run.path / file).write_text(text)
    assert main(["report", str(run.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_read_metrics_skips_invalid_lines(run):
    rows = read_metrics(run)
    with run.metrics.open("a") as file:
        file.write('[1]\n{"loss": 1}\n')
    assert read_metrics(run) == rows


def test_commands_can_be_run_again():
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


def test_versions_that_differ_are_listed_per_stage():
    def start(stage, git):
        return {"stage": stage, "git": git, "versions": {"torch": "2.0", "wandb": None}, "machine": {"host": "h"}}

    assert run_page.versions([start("search", "a1"), start("search", "b2"), start("export", "c3")]) == [
        ("git commit, search", "b2"), ("git commit, export", "c3"), ("torch", "2.0"), ("wandb", "not installed"),
        ("machine", "h"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize(("kind", "drawn"), [("one", 15 + 6 + 2), ("two", 4 + 3 + 2 + 4)])
def test_page_in_a_browser(run, config, tmp_path, kind, drawn):
    """Charts have a size, a tooltip appears, the console has no error, and the page fits the width of a phone."""
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
      const tooltip = document.getElementById('tip').textContent;
      const sizes = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height);
      document.title = JSON.stringify({tooltip, least: Math.min(...sizes), count: sizes.length,
        overflow: document.documentElement.scrollWidth - innerWidth});
    </script>"""
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", probe + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--window-size=500,900", "--enable-logging=stderr", "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    page = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert "parameters" in page["tooltip"] and page["least"] > 60 and page["count"] == drawn and page["overflow"] <= 0
