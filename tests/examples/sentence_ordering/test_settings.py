"""The parameters of the command line."""

from pathlib import Path

import pytest
from ordering.program import run
from ordering.schedule import warmup_and_decay
from ordering.settings import Settings, from_command_line

from clarion.errors import InvalidArgumentError


def test_every_parameter_is_explained_on_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        from_command_line(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in Settings.__dataclass_fields__:
        assert f"--{name} " in text
        explanation = text.split(f"--{name} ")[-1].split("(type")[0]
        assert len(explanation.split()) > 4, name


def test_parameters_from_the_command_line() -> None:
    settings = from_command_line(["--texts", "80", "--lr=1e-3"])
    assert (settings.texts, settings.lr, settings.fresh_marker) == (80, 1e-3, True)


@pytest.mark.parametrize(
    ("texts", "batch_size", "steps_per_epoch", "epochs", "steps"),
    [(3600, 16, 75, 3, 75), (11200, 16, 75, 9, 78), (100, 16, 75, 1, 7), (160, 16, 1, 10, 1)],
)
def test_texts_are_cut_into_epochs_of_about_the_wanted_size(
    texts: int, batch_size: int, steps_per_epoch: int, epochs: int, steps: int
) -> None:
    settings = Settings(texts=texts, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    assert (settings.epochs, settings.steps) == (epochs, steps)
    assert 0 <= epochs * steps * batch_size - texts < epochs * batch_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": 0}, "--texts is 0; it must be at least 1"),
        ({"shortest": 5, "longest": 4}, "--longest is 4; it must be at least 5"),
        ({"warmup": 1.5}, "--warmup is 1.5"),
    ],
)
def test_numbers_that_cannot_work(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Settings(**options)


def test_a_directory_belongs_to_one_run(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    Settings(directory=directory, lr=1e-3).claim_directory()
    Settings(directory=directory, lr=1e-3, shown=7).claim_directory()
    with pytest.raises(InvalidArgumentError, match=r"holds a run with --lr 0.001 \(now 0.002\)"):
        Settings(directory=directory, lr=2e-3).claim_directory()


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    factor = warmup_and_decay(100, 0.06)
    factors = [factor(step) for step in range(101)]
    assert factors[5] == max(factors) == 1.0
    assert factors[:6] == pytest.approx([(i + 1) / 6 for i in range(6)])
    assert factors[99] == pytest.approx(1 / 94)
    assert factors[100] == 0.0


def test_a_program_ends_with_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"InvalidArgumentError: --texts is 0; it must be"):
        run(lambda settings: None, ["--texts", "0"])
    with pytest.raises(SystemExit):
        run(lambda settings: None, ["--text", "80"])
    assert "--text" in capsys.readouterr().err


def test_an_interrupted_program_says_how_to_go_on() -> None:
    def train(settings: Settings) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="The same line goes on"):
        run(train, [])
