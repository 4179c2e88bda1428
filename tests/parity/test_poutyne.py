"""The numbers of whole programs, beside those that Poutyne gives where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import clarion

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "parity_with_poutyne.py"


def load_script():
    spec = importlib.util.spec_from_file_location("parity_with_poutyne", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = load_script()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Run all configurations in a process of their own, which alone imports Poutyne."""
    if importlib.util.find_spec("poutyne") is None:
        pytest.skip("poutyne is not installed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json_lines=true"],
        check=False,  # it fails if a difference is too large; the tests below say which
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("parity"),
        env={**os.environ, "PYTHONPATH": str(Path(clarion.__file__).parents[1])},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(parity.PROGRAMS), done.stderr
    return {row["name"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", parity.PROGRAMS)
def test_the_numbers_are_those_of_poutyne(name, compared):
    row = compared[name]
    assert row["error"] == ""
    assert row["difference"] <= 1e-6


def test_there_are_ten_configurations():
    assert len(parity.PROGRAMS) >= 10


def test_a_difference_is_found_wherever_it_is():
    theirs = {"loss": [1.0, (2.0, torch.tensor([3.0, 400.0]))], "time": 5.0}
    ours = {"loss": [1.0, (2.0, torch.tensor([3.0, 402.0]))], "time": 6.0}
    assert parity.difference(theirs, theirs) == 0.0
    assert parity.difference(ours, theirs) == pytest.approx(2 / 400)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"a": 1.0}, {"b": 1.0}),
        ({"b": 1.0, "a": 1.0}, {"a": 1.0, "b": 1.0}),
        ([1.0], [1.0, 2.0]),
        ([1.0], (1.0,)),
        (torch.ones(2), torch.ones(1, 2)),
        (torch.ones(2), torch.ones(2).numpy()),
        (float("nan"), float("nan")),
        ("loss", "val_loss"),
    ],
)
def test_another_form_is_no_parity(ours, theirs):
    with pytest.raises(AssertionError, match="result"):
        parity.difference(ours, theirs)
