import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.slow
def test_digits_are_recognised_and_training_stops_early(capsys):
    pytest.importorskip("sklearn")
    logs = main_of("classification_digits")()
    assert logs["test_acc"] > 96
    assert logs["test_fscore_macro"] > 0.96
    output = capsys.readouterr().out
    assert ": early stopping" in output
    assert "Restoring best model" in output


@pytest.mark.slow
def test_a_network_explains_as_much_as_a_linear_model(capsys):
    pytest.importorskip("sklearn")
    network, linear = main_of("regression_diabetes")(epochs=50)
    assert linear == pytest.approx(0.359, abs=0.001)
    assert network > linear - 0.05
    assert capsys.readouterr().out.count("\n") == 50


def test_own_callbacks_measure_and_stop(capsys):
    history, norms = main_of("custom_callback")(epochs=20, threshold=0.3)
    assert 1 < len(history) < 20
    assert history[-1]["loss"] < 0.3 <= history[-2]["loss"]
    assert len(norms) == len(history)
    assert all(norm > 0 for norm in norms)
    assert f"Mean norm of the gradients: {norms[-1]:.3f}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_give_what_one_gives():
    pytest.importorskip("sklearn")
    program = str(EXAMPLES / "several_processes.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

    def run(*before):
        command = [sys.executable, *before, program, "--epochs", "3"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def values(output):
        lines = [line for line in output.splitlines() if "val_loss" in line]
        return [float(word) for line in lines for word in line.split("s loss:")[1].split()[::2]]

    one, two = run(), run(*launcher)

    assert len(values(one)) == 3 * 6
    assert values(two) == pytest.approx(values(one), abs=2e-6)
    assert one.count("Accuracy on test images") == two.count("Accuracy on test images") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["classification_digits", "regression_diabetes", "custom_callback", "several_processes"]
)
def test_the_examples_are_programs(name):
    pytest.importorskip("sklearn")
    arguments = [] if name == "custom_callback" else ["--epochs", "2"]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert "Epoch:" in done.stdout
    assert "\r" not in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_a_training_survives_being_killed():
    arguments = [sys.executable, str(EXAMPLES / "survive.py")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.count("  killed in epoch") == 3
    assert done.stdout.endswith("the same, bit for bit.\n")
