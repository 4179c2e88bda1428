import math
import os
import shutil

import pytest
import torch

from clarion.checkpoints.manifest import Manifest
from clarion.checkpoints.reader import read_checkpoint, read_newest
from clarion.checkpoints.retention import Retention, kept_beside
from clarion.checkpoints.writer import write_checkpoint
from clarion.errors import InvalidArgumentError

SCORES = [0.9, 0.5, 0.7, 0.4, 0.6]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def last(tmp_path):
    return tmp_path / "checkpoints" / "last"


def write(last, retention, epoch, score=None, mode="min", monitor="val_loss", reason="epoch"):
    state = {"network": {"w": torch.full((50,), float(epoch))}, "progress": {"epoch": epoch}}
    info = {"epoch": epoch, "reason": reason, "score": score, "monitor": monitor, "mode": mode}
    manifest = write_checkpoint(last, state, info=info)
    retention.apply(last, manifest)


def write_all(last, retention, scores=SCORES, **options):
    for epoch, score in enumerate(scores, start=1):
        write(last, retention, epoch, score, **options)


def kept(last):
    """Return the epochs of the directories beside ``last``, each of which has to be whole."""
    names = [path.name for path in last.parent.iterdir()]
    assert not [name for name in names if "tmp" in name]
    return {
        name: read_checkpoint(last.with_name(name)).state["progress"]["epoch"]
        for name in sorted(names)
    }


def test_one_of_each_has_two_slots(last):
    write_all(last, Retention())
    assert kept(last) == {"best": 4, "last": 5, "last.previous": 4}


def test_more_may_be_better(last):
    write_all(last, Retention(), mode="max")
    assert kept(last)["best"] == 1


@pytest.mark.parametrize(
    ("retention", "epochs"),
    [
        (Retention(newest=3), [3, 4, 5]),
        (Retention(best=2), [2, 4]),
        (Retention(newest=2, best=3), [2, 4, 5]),
        (Retention(newest=9), [1, 2, 3, 4, 5]),
    ],
)
def test_more_of_each(last, retention, epochs):
    write_all(last, retention)
    assert kept(last) == {
        "best": 4,
        "last": 5,
        "last.previous": 4,
        **{f"epoch-{n}": n for n in epochs},
    }


def test_epochs_are_ordered_as_numbers(last):
    write_all(last, Retention(newest=3), [0.1] * 11)
    assert list(kept(last)) == ["best", "epoch-10", "epoch-11", "epoch-9", "last", "last.previous"]


def test_the_first_of_equals_is_the_best(last):
    write_all(last, Retention(), [0.5, 0.5])
    assert kept(last)["best"] == 1


def test_a_smaller_number_removes_what_is_too_much(last):
    write_all(last, Retention(newest=4))
    write(last, Retention(newest=2), 6, 0.8)
    assert sorted(name for name in kept(last) if "epoch" in name) == ["epoch-5", "epoch-6"]


@pytest.mark.parametrize("score", [None, float("nan")])
def test_without_a_score_nothing_is_the_best(last, score):
    write_all(last, Retention(), [score, score])
    assert kept(last) == {"last": 2, "last.previous": 1}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None])
def test_an_epoch_without_a_finite_score_removes_no_best_one(last, score):
    write_all(last, Retention(best=2), [0.3, 0.5, 0.4])
    before = kept(last)

    write(last, Retention(best=2), 4, score)

    after = kept(last)
    assert before.items() >= {"best": 1, "epoch-1": 1, "epoch-3": 3}.items()
    assert after == {**before, "last": 4, "last.previous": 3}


def test_a_score_of_another_kind_begins_anew(last):
    write_all(last, Retention())
    write(last, Retention(), 6, 70.0, monitor="val_acc", mode="max")
    assert kept(last)["best"] == 6


def test_an_epoch_that_is_done_again_takes_its_place(last):
    write_all(last, Retention(newest=2))
    before = os.stat(last.with_name("epoch-5") / "network.safetensors").st_ino
    write(last, Retention(newest=2), 5, 0.2)
    assert kept(last)["best"] == 5
    assert os.stat(last.with_name("epoch-5") / "network.safetensors").st_ino != before


def test_inside_an_epoch_nothing_is_kept_or_removed(last):
    write_all(last, Retention(newest=2))
    before = kept(last)
    write(last, Retention(), 5, 0.1, reason="time")
    assert kept(last) == {**before, "last.previous": 5}


def test_links_take_no_room(last):
    write_all(last, Retention(newest=2), [0.5])
    inodes = {os.stat(last.with_name(name) / "network.safetensors").st_ino for name in kept(last)}
    assert len(inodes) == 1


def test_where_there_are_no_links_files_are_copied(last, monkeypatch):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    write_all(last, Retention(newest=2))
    assert kept(last) == {"best": 4, "epoch-4": 4, "epoch-5": 5, "last": 5, "last.previous": 4}


def test_killed_at_any_operation_the_best_is_there(last, monkeypatch):
    retention = Retention(newest=2)
    for stop_at in range(40):
        done = []

        def counted(function, done=done, stop_at=stop_at):
            def call(*args, **options):
                if len(done) == stop_at:
                    raise KeyboardInterrupt
                done.append(1)
                return function(*args, **options)

            return call

        shutil.rmtree(last.parent, ignore_errors=True)
        write_all(last, retention, [0.9, 0.5])
        manifest = write_checkpoint(
            last,
            {"network": {}, "progress": {"epoch": 3}},
            info={**Manifest.read(last).info, "epoch": 3, "score": 0.1},
        )
        with monkeypatch.context() as patch:
            for name in ("rename", "link", "unlink", "rmdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                retention.apply(last, manifest)
                break
            except KeyboardInterrupt:
                pass
        found = read_newest(last.with_name("best"))
        assert found.state["progress"]["epoch"] in (2, 3)
        assert read_newest(last).state["progress"]["epoch"] == 3
        retention.apply(last, manifest)
        assert kept(last)["best"] == 3
    assert 5 < stop_at < 39


def test_if_the_last_two_are_broken_another_is_used(last):
    write_all(last, Retention(newest=4))
    for name in ("last", "last.previous"):
        path = last.with_name(name) / "state.json"
        path.unlink()
    assert [path.name for path in kept_beside(last)][:2] == ["epoch-5", "best"]
    (last.with_name("epoch-5") / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"last/state\.json.*is used instead: .*best\" \(epoch 4"):
        assert read_newest(last).state["progress"]["epoch"] == 4


@pytest.mark.parametrize(("name", "option"), [("keep", "newest"), ("keep_best", "best")])
@pytest.mark.parametrize("number", [0, 1.5])
def test_numbers_are_whole_and_at_least_one(name, option, number):
    with pytest.raises(InvalidArgumentError, match=f"{name} is {number}"):
        Retention(**{option: number})
