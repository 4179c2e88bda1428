"""Where a launcher puts a process, and what becomes of the process group."""

import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from clarion import InvalidArgumentError
from clarion.distributed import environment
from clarion.distributed.environment import Place, join, place_of
from clarion.distributed.single import Single


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, None),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),  # Fabric's children have no RANK
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Place(3, 4, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # a batch script, not a step
        (
            {
                "SLURM_PROCID": "2",
                "SLURM_STEP_ID": "0",
                "SLURM_NTASKS": "4",
                "SLURM_LOCALID": "1",
                "SLURM_JOB_ID": "20017",
                "SLURM_STEP_NODELIST": "node-a",
            },
            Place(2, 4, 1, "node-a:20017"),
        ),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, Place(0, 1, 0)),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            },
            Place(1, 2, 1, "127.0.0.1:29500"),
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                "MASTER_ADDR": "node-b",
                "MASTER_PORT": "1234",
            },
            Place(1, 2, 0),
        ),
    ],
)
def test_places_that_launchers_describe(env, place):
    assert place_of(env) == place


def test_the_first_of_several_hosts_listens(monkeypatch):
    def show(command, **options):
        assert command == ["scontrol", "show", "hostnames", "node[3-5]"]
        return subprocess.CompletedProcess(command, 0, "node3\nnode4\nnode5\n")

    monkeypatch.setattr(environment.subprocess, "run", show)
    env = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    place = place_of({**env, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[3-5]"})

    assert place.address == "node3:20007"


def test_one_process_makes_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(join(), Single)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert isinstance(join(), Single)
    assert not dist.is_initialized()


def test_ranks_without_an_address_are_told_what_to_do(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)

    with pytest.raises(InvalidArgumentError, match="rank 0 of 2, and not where rank 0 listens"):
        join()


SCRIPT = """
import torch
import torch.distributed as dist

if {given}:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
import clarion

model = clarion.Model(torch.nn.Linear(2, 1), "sgd", "mse")
x = torch.zeros(4, 2)
for _ in range(2):
    model.fit(x, x[:, :1], epochs=1, verbose=False)
    model.evaluate(x, x[:, :1], verbose=False)
print(dist.is_initialized(), model.strategy.world_size)
"""


@pytest.mark.slow
def test_a_group_that_exists_is_used_and_left_alone():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(given=True)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RANK": "1", "WORLD_SIZE": "7"},
    )

    assert (done.stdout, done.stderr) == ("True 1\n", "")


def die_in_the_middle(rank_that_dies):
    import torch

    from clarion import Callback, Model

    class Die(Callback):
        def on_optimizer_step_end(self, step):
            if step == 3 and int(os.environ["RANK"]) == rank_that_dies:
                os._exit(1)

    x = torch.linspace(-1, 1, 64).reshape(32, 2)
    model = Model(torch.nn.Linear(2, 1), "sgd", "mse")
    model.fit(x, x[:, :1], batch_size=8, epochs=2, callbacks=[Die()], verbose=False)


@pytest.mark.slow
def test_the_others_say_where_a_rank_was_lost(ranks):
    first, second = ranks.errors(die_in_the_middle, 1)

    assert second == "gone"
    assert "This happened on rank 0 of 2, in epoch 1, after optimizer step 3." in first
    assert "Another rank has ended: its own error says why." in first
