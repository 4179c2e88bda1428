"""What a callback remembers when a training goes on with another one in its place."""

import warnings

import pytest

from clarion import BestModelRestore, EarlyStopping, ModelCheckpoint

ACCURACY = {"monitor": "val_acc", "mode": "max"}
LOSS = {"monitor": "val_loss", "mode": "min"}


def saver(**watched):
    return ModelCheckpoint("unused.ckpt", save_best_only=True, **watched)


@pytest.mark.parametrize("make", [BestModelRestore, EarlyStopping, saver])
@pytest.mark.parametrize("now", [{"monitor": "val_fscore_macro", "mode": "max"}, LOSS])
def test_what_watched_something_else_starts_afresh_and_says_so(make, now, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    state = {**make(**ACCURACY).fresh_memory(), **ACCURACY, "best": 53.3, "current_best": 53.3}
    callback = make(**now)
    callback.load_state_dict(state)
    told = rf'\(monitor="{now["monitor"]}", mode="{now["mode"]}"\) starts afresh.*val_acc.*max'
    with pytest.warns(UserWarning, match=told):
        callback.on_train_begin({})
    fresh = make(**now).fresh_memory()
    assert {name: getattr(callback, name) for name in fresh} == fresh
    callback.on_train_begin({})  # it is said once


@pytest.mark.parametrize("make", [BestModelRestore, EarlyStopping, saver])
def test_what_watches_the_same_goes_on(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    state = {**make(**LOSS).state_dict(), "best": 0.25, "current_best": 0.25}
    of_earlier_versions = {name: state[name] for name in make(**LOSS).fresh_memory()}
    for one in (state, of_earlier_versions):
        callback = make(**LOSS)
        callback.load_state_dict(one)
        callback.on_train_begin({})
        assert 0.25 in (getattr(callback, "best", None), getattr(callback, "current_best", None))


def test_where_nothing_is_watched_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    callback = ModelCheckpoint("last.ckpt", monitor="val_acc", mode="max")
    callback.load_state_dict(ModelCheckpoint("last.ckpt").state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_train_begin({})
