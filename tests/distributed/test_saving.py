"""Weights saved by several ranks: one writes."""

import io
import os

import torch
from torch import nn

from clarion import Model


def save(directory):
    torch.manual_seed(0)
    model = Model(nn.Linear(300, 300), "sgd", "mse")
    written = []
    for name in ("w.pt", "w.safetensors", "o.pt"):
        path = os.path.join(directory, name)
        (model.save_optimizer_state if name == "o.pt" else model.save_weights)(path)
        written.append(os.path.exists(path))
        model.strategy.agree(True)
    own = io.BytesIO()
    model.save_weights(own)
    model.load_weights(os.path.join(directory, "w.pt"))
    return len(own.getvalue()) > 0, model.strategy.rank, written


def test_rank_0_writes_a_path_and_every_rank_its_own_file_object(ranks, tmp_path):
    (has_one, _, written), (has_other, rank, _) = ranks(save, str(tmp_path))

    assert has_one
    assert has_other
    assert rank == 1
    assert written == [True] * 3
    assert sorted(os.listdir(tmp_path)) == ["o.pt", "w.pt", "w.safetensors"]


def save_beside(directory):
    model = Model(nn.Linear(3, 1), "sgd", "mse")
    model.save_weights(os.path.join(directory, f"{model.strategy.rank}.pt"))


def test_a_rank_other_than_0_writes_no_path(ranks, tmp_path):
    ranks(save_beside, str(tmp_path))

    assert os.listdir(tmp_path) == ["0.pt"]
