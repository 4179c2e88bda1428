"""The benchmarks measure what they say, as far as clarion and the loops by hand go."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import report
import worker
import workloads

HERE = ("bare", "dataloader", "clarion")


def measure(contender, workload, scale=0.002):
    framework, _, variants = contender.partition(":")
    kind = workloads.WORKLOADS[workload].kind
    return worker.main(framework, variants.split("+") if variants else [], workload, kind, scale)


@pytest.fixture
def contenders():
    def find(workload):
        names = workloads.WORKLOADS[workload].contenders
        return [name for name in names if name.partition(":")[0] in HERE]

    return find


@pytest.mark.parametrize("workload", ["arrays", "batches", "images"])
def test_everybody_does_the_same_work(workload, contenders, monkeypatch, capsys):
    # The graph of a compiled step runs as it was captured: a compiler takes half a minute.
    monkeypatch.setattr("clarion.engine.graphs._lower", lambda graph, inputs: graph)
    found = {name: [measure(name, workload)] for name in contenders(workload)}
    assert report.disagreements(workload, found) == []
    # Nothing is called for each example of a compiled step; its loss shows what it saw.
    counted = [name for name in found if "compiled" not in name]
    assert {found[name][0]["rows"] for name in counted} == {1.0}
    lines = report.table(workload, found).splitlines()
    assert [line.split()[1] for line in lines[2:]] == list(found)


def test_everybody_scores_alike(contenders):
    found = {name: [measure(name, "scoring")] for name in contenders("scoring")}
    assert report.disagreements("scoring", found) == []
    assert {"evaluate", "predict", "f1"} <= found["clarion"][0].keys()


def test_a_long_run_is_watched_from_its_start_to_its_end():
    found = measure("clarion", "long")
    assert 380 <= found["steps"] <= 400
    assert found["slower"] > 0


def test_who_does_other_work_is_named():
    def run(**found):
        return [{"cpu": 1.0, "steps": 1, "loss": 2.0, "rows": 1.0, **found}]

    runs = {
        "bare": run(),
        "clarion": run(cpu=0.5),
        "poutyne": run(loss=2.1),
        "keras": run(rows=0.9),
        "hf": [{"error": "Traceback\nValueError: no"}],
    }
    assert report.disagreements("arrays", runs) == [
        "arrays: poutyne has loss 2.1000, not 2.0000.",
        "arrays: keras saw 0.9 of the examples.",
        "arrays: hf failed: ValueError: no",
    ]
    assert report.ratio(runs["clarion"], runs["bare"]) == 0.5
    assert "| hf      |           - |" in report.table("arrays", runs)
