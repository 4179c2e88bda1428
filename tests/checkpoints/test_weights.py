import io
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clarion.checkpoints.apply import apply_weights, differences
from clarion.checkpoints.weights import load_state, plain_numbers, save_state
from clarion.checkpoints.writer import write_checkpoint
from clarion.errors import CheckpointError, InvalidTypeError, MissingFileError


def network(outputs=2):
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs))


def assert_same(first, second):
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("name", ["w.ckpt", "w.pt", "w.safetensors"])
def test_weights_come_back_from_a_path(tmp_path, name):
    weights = network().state_dict()
    save_state(weights, tmp_path / name)
    back = load_state(str(tmp_path / name))
    assert_same({k: back[k] for k in weights}, weights)
    assert len(back) == len(weights)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_weights_come_back_from_a_file_object():
    file = io.BytesIO()
    save_state(network().state_dict(), file)
    file.seek(0)
    assert_same(load_state(file), network().state_dict())


def test_the_format_is_told_by_the_content(tmp_path):
    save_state(network().state_dict(), tmp_path / "w.safetensors")
    os.rename(tmp_path / "w.safetensors", tmp_path / "w.ckpt")
    assert torch.equal(load_state(tmp_path / "w.ckpt")["0.bias"], network().state_dict()["0.bias"])


def test_an_open_temporary_file_gets_the_format_of_its_final_name(tmp_path):
    with open(tmp_path / "w.safetensors.tmp", "wb") as file:
        save_state({"a": torch.ones(2)}, file)
    assert torch.equal(load_file(tmp_path / "w.safetensors.tmp")["a"], torch.ones(2))


def test_plain_torch_reads_the_file(tmp_path):
    weights = network().state_dict()
    save_state(weights, tmp_path / "w.ckpt")
    back = torch.load(tmp_path / "w.ckpt", pickle_module=pickle, map_location="cpu")
    assert_same(back, weights)
    assert_same(torch.load(tmp_path / "w.ckpt", weights_only=True), weights)


def test_tied_weights_are_both_in_a_safetensors_file(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    save_state(net.state_dict(), tmp_path / "w.safetensors")
    back = load_file(tmp_path / "w.safetensors")
    assert torch.equal(back["0.weight"], net[0].weight)
    assert torch.equal(back["1.weight"], net[0].weight)


def test_safetensors_refuses_what_is_no_tensor(tmp_path):
    with pytest.raises(InvalidTypeError, match=r'"lr" is a float.*another suffix'):
        save_state({"lr": 0.1}, tmp_path / "o.safetensors")


def test_numpy_numbers_are_saved_as_pythons(tmp_path):
    state = {"state": {0: (1, [np.int64(2)])}, "param_groups": [{"lr": np.float64(0.1)}]}
    save_state(state, tmp_path / "o")
    back = torch.load(tmp_path / "o", weights_only=True)
    assert back == {"state": {0: (1, [2])}, "param_groups": [{"lr": 0.1}]}


def test_plain_numbers_leaves_alone_what_has_none():
    state = {"a": [1, (2.0, torch.ones(1))]}
    assert plain_numbers(state) is state


def test_files_with_numpy_numbers_are_read(tmp_path):
    torch.save({"lr": np.float64(0.25), "n": np.int64(3)}, tmp_path / "o")
    assert load_state(tmp_path / "o") == {"lr": 0.25, "n": 3}


def test_a_training_checkpoint_gives_its_networks_weights(tmp_path):
    write_checkpoint(tmp_path / "last", {"network": network().state_dict(), "progress": {}})
    assert_same(load_state(tmp_path / "last"), network().state_dict())


class Payload:
    """Runs a command when it is unpickled without protection."""

    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


def crafted_files(tmp_path):
    mark = tmp_path / "executed"
    payloads = {
        "system": Payload(os.system, f"touch {mark}"),
        "eval": Payload(eval, f"__import__('pathlib').Path({str(mark)!r}).touch()"),
        "popen": Payload(subprocess.getoutput, f"touch {mark}"),
    }
    for name, payload in payloads.items():
        torch.save({"weight": torch.ones(1), "x": payload}, tmp_path / f"{name}.ckpt")
        with open(tmp_path / f"{name}-{2}.ckpt", "wb") as file:
            pickle.dump(payload, file, protocol=2)
        with open(tmp_path / f"{name}-{5}.ckpt", "wb") as file:
            pickle.dump(payload, file)
        torch.save(payload, tmp_path / f"{name}-old.ckpt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payloads["system"], protocol=2))
        archive.writestr("archive/version", "3\n")
    return sorted(tmp_path.glob("*.ckpt")), mark


def test_crafted_files_are_refused_and_run_nothing(tmp_path):
    paths, mark = crafted_files(tmp_path)
    assert len(paths) == 13
    for path in paths:
        with pytest.raises(CheckpointError, match=r"was refused: .* could run code"):
            load_state(path)
        with open(path, "rb") as file, pytest.raises(CheckpointError, match="was refused"):
            load_state(file)
    assert not mark.exists()
    torch.load(tmp_path / "eval.ckpt", weights_only=False)
    assert mark.exists()  # the payload is real


def test_the_refusal_names_what_the_file_would_import(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "whole.ckpt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear has to be imp"):
        load_state(tmp_path / "whole.ckpt")


@pytest.mark.parametrize("name", ["w.ckpt", "w.safetensors"])
def test_a_file_that_was_cut_off_is_named(tmp_path, name):
    save_state(network().state_dict(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in (9, 100, len(content) - 3):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=rf'{name}" cannot be read: it is broken'):
            load_state(tmp_path / name)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "w.ckpt").touch()
    with pytest.raises(CheckpointError, match=r'w\.ckpt" is empty'):
        load_state(tmp_path / "w.ckpt")


def test_a_text_file_is_no_checkpoint(tmp_path):
    (tmp_path / "w.ckpt").write_text("loss: 0.5, so good\n")
    with pytest.raises(CheckpointError, match=r"cannot be read|was refused"):
        load_state(tmp_path / "w.ckpt")


def test_a_missing_file_is_named_with_its_neighbours(tmp_path):
    (tmp_path / "epoch_1.ckpt").touch()
    with pytest.raises(MissingFileError, match=r'epoch_2\.ckpt.*beside it: "epoch_1\.ckpt"'):
        load_state(tmp_path / "epoch_2.ckpt")
    with pytest.raises(FileNotFoundError, match="does not exist either"):
        load_state(tmp_path / "nowhere" / "epoch_2.ckpt")


def test_saving_into_a_missing_directory_is_explained(tmp_path):
    with pytest.raises(MissingFileError, match="there is no directory"):
        save_state({}, tmp_path / "nowhere" / "w.ckpt")


def test_weights_that_fit_are_applied():
    net = network()
    weights = {name: torch.full_like(value, 2) for name, value in net.state_dict().items()}
    result = apply_weights(net, weights)
    assert result.missing_keys == []
    assert result.unexpected_keys == []
    assert_same(net.state_dict(), weights)


def test_another_shape_is_named_and_nothing_is_changed():
    net = network(2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        apply_weights(net, network(3).state_dict(), source="runs/a", action="resume from")
    assert str(caught.value) == (
        'Cannot resume from "runs/a": "2.weight" is (3, 4) in the checkpoint and (2, 4) in the '
        'network; "2.bias" is (3,) in the checkpoint and (2,) in the network. Build the same '
        "network, or load what fits with load_weights(path, strict=False)."
    )
    assert_same(net.state_dict(), before)


def test_missing_and_unexpected_names_are_listed():
    weights = {"weigth": torch.zeros(1, 2), "bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r'lacks "weight" \(it has "weigth"\); the network h'):
        apply_weights(nn.Linear(2, 1), weights)


def test_a_long_list_is_cut_short():
    clauses = differences(nn.Linear(1, 1), {f"layer{i}": torch.zeros(1) for i in range(9)})
    assert clauses[1] == 'the network has no "layer0", "layer1", "layer2" and 6 more'


def test_not_strict_loads_what_fits():
    net, other = network(2), network(3)
    result = apply_weights(net, {**other.state_dict(), "extra": torch.ones(1)}, strict=False)
    assert sorted(result.missing_keys) == ["2.bias", "2.weight"]
    assert sorted(result.unexpected_keys) == ["2.bias", "2.weight", "extra"]
    assert torch.equal(net[0].weight, other[0].weight)
    assert torch.equal(net[2].weight, network(2)[2].weight)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_do_not_matter(prefix):
    weights = {prefix + name: value for name, value in network(5).state_dict().items()}
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))
    apply_weights(net, weights)
    assert_same(net.state_dict(), network(5).state_dict())


def test_weights_go_into_a_compiled_network():
    net = torch.compile(network(5), backend="eager")
    apply_weights(net, {name: torch.zeros_like(x) for name, x in network(5).state_dict().items()})
    assert not any(parameter.any() for parameter in net.parameters())


def test_a_networks_own_hook_may_rename_old_weights():
    class Renamed(nn.Linear):
        def _load_from_state_dict(self, state, prefix, *args):
            state[prefix + "weight"] = state.pop(prefix + "kernel")
            super()._load_from_state_dict(state, prefix, *args)

    net = Renamed(2, 1)
    apply_weights(net, {"kernel": torch.ones(1, 2), "bias": torch.ones(1)})
    assert torch.equal(net.weight, torch.ones(1, 2))


def test_layers_without_a_shape_yet_take_the_files():
    net = nn.LazyLinear(2)
    apply_weights(net, {"weight": torch.ones(2, 5), "bias": torch.ones(2)})
    assert net.weight.shape == (2, 5)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r'load "w\.pt": it is a list where a dict of tensors by name is expected\. Save'),
        (3, "it is an int where"),
        ("x", "it is a str where"),
        (None, "it is None where"),
        ({1: torch.zeros(2)}, "it is a dict with the key 1 where names are expected"),
    ],
)
def test_what_are_no_weights_by_name(content, message, strict):
    with pytest.raises(CheckpointError, match=message):
        apply_weights(nn.Linear(3, 1), content, strict=strict, source="w.pt")


@pytest.mark.parametrize("wrong", ["x", None, {"a": 1}, [1.0]])
def test_what_is_no_tensor_is_named_and_nothing_is_changed(wrong):
    net = nn.Linear(3, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weights = {"weight": torch.ones(1, 3), "bias": wrong}

    with pytest.raises(
        CheckpointError, match=r'"bias" is (a str|None|a dict|a list).* and \(1,\) in'
    ):
        apply_weights(net, weights)

    assert_same(net.state_dict(), before)
    result = apply_weights(net, weights, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["bias"], ["bias"])
    assert torch.equal(net.weight, torch.ones(1, 3))
