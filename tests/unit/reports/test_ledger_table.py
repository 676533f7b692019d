"""The table of candidates: its data, and what its script does with them in Chromium.

Reference: the ledger, sorted and filtered in Python.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.helpers.runs import search
from vitas_ds.reports import candidates, ledger_table, run_page
from vitas_ds.reports.candidates import read_candidates
from vitas_ds.run.files import read_json, write_json
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring.ledger_reader import read_ledger

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="ledger">(.*?)</script>', text)[1])


def spec_in(data: dict, i: int) -> dict:
    """Return spec.json of a candidate as the script of the page does."""
    columns = dict(zip((name for name, _ in data["columns"]), data["values"], strict=True))
    own = {"patch_size": columns["patch size"][i], "embed_dim": columns["embedding"][i]}
    return data["fields"] | own | {"layers": [data["layers"][k] for k in data["nets"][i]]}


def test_the_data_are_those_of_the_ledger(config):
    run, best = search(config)
    data, every = data_of(run_page.render(run)), ranked(read_ledger(run.ledger))
    columns = dict(zip((name for name, _ in data["columns"]), data["values"], strict=True))
    assert columns["rank"] == list(range(1, 13))
    assert columns["score"] == pytest.approx([c.value for c in every])
    assert columns["± std. error"] == [0.01] * 12 and columns["MACs"] == [c.costs["macs"] for c in every]
    assert columns["search:"] == ["best[1], pareto[0]", *[""] * 11]
    assert [spec_in(data, i) for i in range(12)] == [c.spec.to_dict() for c in every]
    assert "predicted ms" not in columns and best.spec == every[0].spec
    assert read_json(run.best, {})["spec"]["embed_dim"] == columns["embedding"][0]


def test_the_best_ones_of_a_large_search(config, monkeypatch):
    monkeypatch.setattr(candidates, "BEST", 5)
    run, _ = search(config)
    found = ledger_table.section(run, config.search, read_candidates(run, config))
    assert found["note"] == "The best 5 of 12 candidates; ledger.jsonl has all." and len(found["rows"]) == 5
    assert "All 12" in ledger_table._note(candidates.Candidates(12, best=[None] * 12))


def test_dropped_candidates_have_their_measured_latency(config):
    run, _ = search(config)
    results, last = read_json(run.best, {}), ranked(read_ledger(run.ledger))[-1]
    dropped = last.to_dict() | {"predicted_latency": 3e-3, "latency": 7e-3}
    write_json(run.best, results | {"dropped": [dropped]})
    data = data_of(run_page.render(run))
    columns = dict(zip((name for name, _ in data["columns"]), data["values"], strict=True))
    assert columns["measured ms"] == [*[None] * 11, 7.0] and columns["search:"][-1] == ledger_table.DROPPED


def test_text_cannot_end_the_script(config, monkeypatch):
    run, _ = search(config)
    monkeypatch.setattr(ledger_table, "names_of", lambda _: dict.fromkeys([c.spec for c in read_ledger(run.ledger)],
                                                                         "</script><b>&"))  # fmt: skip
    text = run_page.render(run)
    assert "</script><b>" not in text and data_of(text)["values"][-1][0] == "</script><b>&"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_sorting_and_filtering_in_a_browser(config, tmp_path):
    run, _ = search(config)
    probe = """<script>
      const $ = selector => [...document.querySelectorAll('#candidates ' + selector)];
      const column = c => $('tbody tr').map(row => row.children[c] && row.children[c].textContent);
      const heading = name => $('thead th').findIndex(th => th.textContent === name);
      const set = (field, text) => { field.value = text; field.dispatchEvent(new Event('input')); };
      const type = (name, text) => {
        const field = $('input')[heading(name)];
        set(field, text);
        const found = [column(0), field.getAttribute('aria-invalid')];
        set(field, '');
        return found;
      };
      const out = { all: column(0) };
      $('thead th button')[heading('MACs')].click(); out.up = column(heading('MACs'));
      $('thead th button')[heading('MACs')].click(); out.down = column(heading('MACs'));
      $('thead th button')[heading('rank')].click();
      out.bound = type('score', '>=60%'); out.range = type('MACs', '1M-2M'); out.text = type('search:', 'PARETO');
      out.wrong = type('MACs', '<x'); out.exact = type('patch size', '7'); out.none = type('score', '<1%');
      $('tbody button')[0].click(); out.details = $('td.details')[0].textContent;
      out.sorted = $('th')[0].getAttribute('aria-sort');
      document.title = JSON.stringify(out);
    </script>"""
    path = tmp_path / "page.html"
    path.write_text(run_page.render(run).replace("</body>", probe + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--enable-logging=stderr", "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    out = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))
    every = ranked(read_ledger(run.ledger))

    def ranks(matches):
        return [str(i) for i, c in enumerate(every, 1) if matches(c)]

    macs = [c.costs["macs"] for c in every]
    assert out["all"] == ranks(lambda c: True) and out["sorted"] == "ascending"
    assert out["up"] == [f"{m:,}" for m in sorted(macs)] and out["down"] == [f"{m:,}" for m in sorted(macs)[::-1]]
    assert out["bound"] == [ranks(lambda c: c.value >= 0.6), "false"]
    assert out["range"][0] == ranks(lambda c: 1e6 <= c.costs["macs"] <= 2e6) and out["text"][0] == ["1"]
    assert out["exact"][0] == ranks(lambda c: c.spec.patch_size == 7) and out["none"][0] == []
    assert out["wrong"] == [out["all"], "true"]
    first = every[0].spec
    assert f"layer 1: {first.active[0].num_heads} heads, q/k/v {first.active[0].qkv_dim}" in out["details"]
    assert json.loads(out["details"][out["details"].index("{") :]) == first.to_dict()
