"""Random states: seeded, saved, restored, and left alone."""

import io
import pickle
import random

import numpy as np
import pytest
import torch

from clarion import (
    load_random_states,
    save_random_states,
    set_deterministic_debug_mode,
    set_seeds,
)
from clarion.checkpoints.random import RandomState, preserved_random_state
from clarion.errors import CheckpointError, MissingFileError


def draw():
    """Draw from each of the generators."""
    return (random.random(), float(np.random.rand()), torch.rand(1).item())


def test_a_seed_seeds_all_generators():
    set_seeds(3)
    first = draw()
    set_seeds(3)
    assert draw() == first
    set_seeds(4)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_the_seeds_are_those_of_the_libraries():
    set_seeds(5)
    ours = draw()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert draw() == ours


def test_no_seed_changes_nothing():
    set_seeds(3)
    first = draw()
    set_seeds(3)
    set_seeds(None)
    assert draw() == first


@pytest.mark.parametrize("kind", ["path", "str", "file"])
def test_saved_states_are_restored(tmp_path, kind):
    path = tmp_path / "random.states"
    file = {"path": path, "str": str(path), "file": io.BytesIO()}[kind]
    set_seeds(1)
    draw()
    save_random_states(file)
    expected = [draw(), draw()]

    if kind == "file":
        file.seek(0)
    set_seeds(99)
    load_random_states(file)

    assert [draw(), draw()] == expected


def test_the_file_holds_the_four_states(tmp_path):
    path = tmp_path / "random.states"
    save_random_states(path)

    states = torch.load(path, weights_only=False)

    assert set(states) == {"cpu", "cuda", "numpy", "python"}
    assert isinstance(states["cpu"], torch.Tensor)
    assert type(states["cuda"]) is list
    assert type(states["numpy"]) is type(states["python"]) is tuple


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "random.states"
    torch.save({"cpu": Evil()}, path, pickle_module=pickle)

    with pytest.raises(RuntimeError, match=r"random\.states"):
        load_random_states(path)


@pytest.mark.parametrize("kept", [-1, -200, 100, 31, 4, 0])
def test_a_file_that_was_cut_off_is_named(tmp_path, kept):
    path = tmp_path / "random.states"
    save_random_states(path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match=r'random\.states" does not hold random states'):
        load_random_states(path)


@pytest.mark.parametrize(
    ("name", "wrong"), [("python", (3, (1, 2), None)), ("numpy", ("MT19937",)), ("cuda", 3)]
)
def test_one_bad_state_leaves_all_generators_as_they_were(tmp_path, name, wrong):
    path = tmp_path / "random.states"
    save_random_states(path)
    states = torch.load(path, weights_only=False)
    if name == "cuda":
        del states["cuda"]
    else:
        states[name] = wrong
    torch.save(states, path)
    set_seeds(1)
    expected = draw()
    set_seeds(1)

    with pytest.raises(CheckpointError, match=r'random\.states" does not hold.*"cpu", "cuda"'):
        load_random_states(path)

    assert draw() == expected


def test_random_states_that_are_something_else_or_not_there(tmp_path):
    torch.save([1], tmp_path / "list")
    with pytest.raises(CheckpointError, match="it is a list where a dict is expected"):
        load_random_states(tmp_path / "list")
    with pytest.raises(MissingFileError, match=r'no file ".*none" to load random states from'):
        load_random_states(tmp_path / "none")


def test_states_survive_as_plain_values():
    set_seeds(1)
    random.gauss(0, 1)  # Python keeps the second number of the pair
    state = RandomState().state_dict()
    expected = [draw(), random.gauss(0, 1)]
    set_seeds(2)

    RandomState().load_state_dict(state)

    assert [draw(), random.gauss(0, 1)] == expected


def test_what_is_drawn_inside_leaves_no_trace():
    set_seeds(1)
    expected = draw()
    set_seeds(1)
    with pytest.raises(ZeroDivisionError), preserved_random_state():
        raise ZeroDivisionError(draw())
    assert draw() == expected


@pytest.mark.parametrize(("mode", "inside"), [("warn", 1), ("error", 2), (0, 0), (None, 0)])
def test_the_debug_mode_is_set_inside(mode, inside):
    assert torch.get_deterministic_debug_mode() == 0
    with set_deterministic_debug_mode(mode):
        assert torch.get_deterministic_debug_mode() == inside
    assert torch.get_deterministic_debug_mode() == 0


def test_the_debug_mode_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), set_deterministic_debug_mode("error"):
        raise ZeroDivisionError
    assert torch.get_deterministic_debug_mode() == 0
