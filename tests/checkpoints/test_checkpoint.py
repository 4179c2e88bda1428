import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clarion.checkpoints import files, reader, writer
from clarion.checkpoints.manifest import FORMAT, Manifest
from clarion.checkpoints.reader import read_checkpoint, read_newest
from clarion.checkpoints.writer import previous_of, write_checkpoint
from clarion.errors import CheckpointError, MissingFileError


def state_of(epoch):
    return {
        "network": {"0.weight": torch.full((2, 3), float(epoch)), "0.bias": torch.zeros(2)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        "progress": {"epoch": epoch, "history": [{"loss": 0.5}]},
    }


def write(directory, epoch):
    return write_checkpoint(directory, state_of(epoch), info={"epoch": epoch})


def epoch_in(checkpoint):
    assert checkpoint.state["network"]["0.weight"][0, 0] == checkpoint.state["progress"]["epoch"]
    return checkpoint.state["progress"]["epoch"]


@pytest.fixture
def last(tmp_path):
    """A checkpoint of epoch 2 and the one of epoch 1 before it."""
    directory = tmp_path / "checkpoints" / "last"
    write(directory, 1)
    write(directory, 2)
    return directory


def test_a_checkpoint_comes_back(last):
    checkpoint = read_checkpoint(last)
    assert epoch_in(checkpoint) == 2
    assert checkpoint.manifest.info == {"epoch": 2}
    assert checkpoint.state["optimizer"]["state"][0]["step"] == 3.0
    assert checkpoint.state["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_the_weights_can_be_read_with_safetensors_alone(last):
    weights = load_file(last / "network.safetensors")
    assert torch.equal(weights["0.weight"], torch.full((2, 3), 2.0))


def test_only_tensors_and_json_are_written(last):
    assert sorted(path.name for path in last.iterdir()) == [
        "manifest.json",
        "network.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    json.loads((last / "state.json").read_text())


def test_the_manifest_names_versions_and_sizes(last):
    manifest = Manifest.read(last)
    assert manifest.format == FORMAT
    assert manifest.environment["torch"] == str(torch.__version__)
    assert manifest.environment["threads"] == torch.get_num_threads()
    for name, entry in manifest.files.items():
        assert entry.size == (last / name).stat().st_size


def test_the_one_before_is_kept(last):
    assert epoch_in(read_checkpoint(previous_of(last))) == 1


def test_some_parts_can_be_read_alone(last):
    assert list(read_checkpoint(last, parts=["network"]).state) == ["network"]
    with pytest.raises(CheckpointError, match="has no 'weights'; it holds the parts network, opt"):
        read_checkpoint(last, parts=["weights"])


def test_what_was_read_outlives_the_files(last):
    state = read_checkpoint(last).state
    shutil.rmtree(last)
    state["network"]["0.weight"].add_(1)
    assert torch.equal(state["network"]["0.weight"], torch.full((2, 3), 3.0))


def test_tensors_that_share_memory_are_all_kept(tmp_path):
    tied = torch.arange(4.0)
    write_checkpoint(tmp_path / "c", {"network": {"a": tied, "b": tied, "c": tied[:2]}})
    weights = load_file(tmp_path / "c" / "network.safetensors")
    assert torch.equal(weights["a"], tied)
    assert torch.equal(weights["b"], tied)
    assert torch.equal(weights["c"], tied[:2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


FILES = ["manifest.json", "network.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, os.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(last, name, damage):
    damage(last / name)
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(last)
    with pytest.warns(UserWarning, match=rf"{name}.* An earlier checkpoint is used.*epoch 1"):
        checkpoint = read_newest(last)
    assert epoch_in(checkpoint) == 1


def test_a_broken_checkpoint_never_replaces_the_good_one(last):
    truncate(last / "state.json")
    with pytest.warns(UserWarning, match="is broken"):
        read_newest(last)
    assert not last.exists()
    assert (last.parent / "last.broken-1").is_dir()
    write(last, 2)
    assert epoch_in(read_checkpoint(last)) == 2
    assert epoch_in(read_checkpoint(previous_of(last))) == 1


@pytest.mark.parametrize("moment", ["before", "while reading", "after"])
def test_another_rank_sets_the_broken_checkpoint_aside_meanwhile(last, monkeypatch, moment):
    (last / "network.safetensors").write_bytes(b"")

    def set_aside(*_):
        if last.exists():
            os.rename(last, last.with_name("last.broken-1"))

    if moment == "before":
        set_aside()
    elif moment == "while reading":
        original = Manifest.verify
        monkeypatch.setattr(
            Manifest, "verify", lambda self, path: (set_aside(), original(self, path))
        )
    else:
        original_aside = reader._set_aside
        monkeypatch.setattr(reader, "_set_aside", lambda path: (set_aside(), original_aside(path)))
    with nullcontext() if moment == "before" else pytest.warns(UserWarning, match="An earlier"):
        assert epoch_in(read_newest(last)) == 1
    names = sorted(path.name for path in last.parent.iterdir())
    assert names == ["last.broken-1", "last.previous"]


def test_where_the_newest_was_set_aside_the_best_is_read_if_nothing_else_is(last):
    last.rename(last.with_name("last.broken-1"))
    previous_of(last).rename(last.with_name("best"))

    assert epoch_in(read_newest(last)) == 1

    shutil.rmtree(last.with_name("best"))
    assert read_newest(last) is None


@pytest.mark.parametrize("moment", ["between renames", "before the check", "after the check"])
def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(last, monkeypatch, moment):
    verify, sleep = Manifest.verify, time.sleep
    todo = [moment]

    def replaces(self, path):
        if moment == "after the check":
            verify(self, path)
        if todo:
            todo.clear()
            write(last, 3)
            if moment == "between renames":
                last.rename(last.with_name("last.tmp"))
        if moment != "after the check":
            verify(self, path)

    def sleeps(seconds):
        if not last.exists():
            last.with_name("last.tmp").rename(last)
        sleep(0)

    monkeypatch.setattr(Manifest, "verify", replaces)
    monkeypatch.setattr(reader.time, "sleep", sleeps)
    checkpoint = read_checkpoint(last)

    assert epoch_in(checkpoint) == 3
    assert checkpoint.manifest.info == {"epoch": 3}


def test_a_broken_checkpoint_that_nobody_replaces_is_told_at_once(last, monkeypatch):
    monkeypatch.setattr(reader.time, "sleep", lambda _: pytest.fail("it waits"))
    (last / "network.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is broken"):
        read_checkpoint(last)
    with pytest.raises(MissingFileError):
        read_checkpoint(last.with_name("best"))


def test_if_both_are_broken_both_are_named(last):
    truncate(last / "state.json")
    os.unlink(previous_of(last) / "network.safetensors")
    with pytest.raises(CheckpointError, match=r"last/state.json.*last.previous/network.safeten"):
        read_newest(last)


def test_nothing_there_is_no_error_for_resuming_but_one_for_reading(tmp_path):
    assert read_newest(tmp_path / "last") is None
    with pytest.raises(MissingFileError, match="no checkpoint directory"):
        read_checkpoint(tmp_path / "last")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": FORMAT + 1, "environment": []}, rf"has format {FORMAT + 1}.*clarion \?; this"),
        ({"format": 2, "info": {}, "environment": {}}, 'is broken: it has no "files"'),
        ({"format": 2, "files": [], "info": {}, "environment": {}}, '"files" is a list instead'),
        ({"format": 2, "files": {}, "info": 3, "environment": {}}, '"info" is an int instead'),
        ({"format": 2, "files": {}, "info": {"epoch": "x"}, "environment": {}}, "is broken: inv"),
        ({"format": 2, "files": {}, "info": {}, "environment": {}}, 'its files lack "state.json"'),
        ([], "is broken"),
    ],
)
def test_a_manifest_that_holds_something_else_is_named(last, content, message):
    (last / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(last)


def test_a_newer_format_is_refused_and_not_fallen_back_from(last):
    content = json.loads((last / "manifest.json").read_text())
    content["format"] = FORMAT + 1
    content["environment"]["clarion"] = "99.0"
    (last / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"written by clarion 99\.0.*Install the newer"):
        read_newest(last)
    assert last.exists()


def count_operations(monkeypatch, stop_at):
    """Make the ``stop_at``-th operation on the disk kill the writer; return the count so far."""
    done = []

    def counted(function):
        def call(*args, **kwargs):
            if len(done) == stop_at:
                raise KeyboardInterrupt
            done.append(function.__name__)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(writer.os, "fsync", counted(os.fsync))
    monkeypatch.setattr(writer.os, "rename", counted(os.rename))
    monkeypatch.setattr(writer.shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(writer, "save_file", counted(writer.save_file))
    monkeypatch.setattr(Path, "mkdir", counted(Path.mkdir))
    return done


def test_killed_at_any_operation_a_whole_checkpoint_is_left(tmp_path, monkeypatch):
    directory = tmp_path / "last"
    write(directory, 1)
    write(directory, 2)
    with monkeypatch.context() as patch:
        operations = count_operations(patch, stop_at=None)
        write(directory, 3)
    assert operations.count("rename") == 2
    assert operations.count("save_file") == 2
    found = set()
    for stop_at in range(len(operations)):
        shutil.rmtree(tmp_path)
        write(directory, 1)
        write(directory, 2)
        with monkeypatch.context() as patch:
            count_operations(patch, stop_at)
            with pytest.raises(KeyboardInterrupt):
                write(directory, 3)
        found.add(epoch_in(read_newest(directory)))
        write(directory, 4)  # what the kill left behind does not get in the way
        assert epoch_in(read_newest(directory)) == 4
    assert found == {2, 3}


def test_a_full_disk_leaves_the_old_checkpoint_and_says_how_much_is_needed(last, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save_file", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left.*needs 0\.0 MB"):
        write(last, 3)
    assert not (last.parent / "last.tmp").exists()
    assert epoch_in(read_newest(last)) == 2


def test_a_state_that_cannot_be_kept_leaves_the_old_checkpoint(last):
    with pytest.raises(CheckpointError, match=r"callbacks\['mine'\] is a builtins.object"):
        write_checkpoint(last, {"callbacks": {"mine": object()}})
    assert epoch_in(read_newest(last)) == 2


def test_replace_file_keeps_the_old_file_on_an_error(tmp_path):
    path = tmp_path / "last.epoch"
    path.write_text("1\n")

    def fail(file):
        file.write(b"2")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # it is ours
        files.replace_file(path, fail)
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_replace_file_follows_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.replace_file(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
