"""The process group that this process works in: one that exists, or that a launcher describes."""

import atexit
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from clarion.distributed.ddp import DDP
from clarion.distributed.replica import release_replicas
from clarion.distributed.single import Single
from clarion.distributed.strategy import Strategy
from clarion.errors import InvalidArgumentError

__all__ = ["Place", "join", "place_of"]

_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a launcher put this process.

    Attributes:
        rank: Its number among all processes, from 0.
        world_size: How many there are.
        local_rank: Its number among those of this machine.
        address: Where rank 0 listens, ``host:port``; None if it is in ``MASTER_ADDR`` and
            ``MASTER_PORT``.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str | None = None


def join() -> Strategy:
    """Return how this process shares the work: alone, or as one of several ranks.

    A process group that exists is used as it is. Where there is none and the environment describes
    several processes, as ``torchrun``, ``srun`` and ``mpirun`` do, one is made, and destroyed when
    the interpreter ends.

    Raises:
        InvalidArgumentError: If the environment says nothing of where rank 0 listens.
    """
    if not dist.is_available():
        return Single()
    if not dist.is_initialized():
        place = place_of(os.environ)
        if place is None or place.world_size == 1:
            return Single()
        _make_group(place)
    return DDP() if dist.get_world_size() > 1 else Single()


def place_of(env: Mapping[str, str]) -> Place | None:
    """Return the place that environment variables describe; None if they describe none.

    Args:
        env: ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``, as torchrun sets them; else the variables
            of a SLURM step (``srun``) or of Open MPI (``mpirun``).
    """
    if env.get("RANK") and env.get("WORLD_SIZE"):
        return Place(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env:  # a batch script by itself has no step
        world_size = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "1"))
        port = 20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000
        address = f"{_first_host(env)}:{port}" if world_size > 1 else None
        local_rank = int(env.get("SLURM_LOCALID", 0))
        return Place(int(env["SLURM_PROCID"]), world_size, local_rank, _address(env, address))
    if "OMPI_COMM_WORLD_RANK" in env:
        names = ("RANK", "SIZE", "LOCAL_RANK")
        rank, world_size, local_rank = (int(env[f"OMPI_COMM_WORLD_{name}"]) for name in names)
        return Place(rank, world_size, local_rank, _address(env, "127.0.0.1:29500"))
    return None


def _address(env: Mapping[str, str], guess: str | None) -> str | None:
    """Return where rank 0 listens, unless the user has said so."""
    return None if "MASTER_ADDR" in env and "MASTER_PORT" in env else guess


def _first_host(env: Mapping[str, str]) -> str:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    if re.fullmatch(r"[\w.-]+", nodes):
        return nodes
    command = ["scontrol", "show", "hostnames", nodes]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]


def _make_group(place: Place) -> None:
    named = "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ
    if place.address is None and not named:
        raise InvalidArgumentError(
            f"The environment says that this is rank {place.rank} of {place.world_size}, and not "
            "where rank 0 listens. Start the script with torchrun --nproc-per-node=2 train.py, "
            "set MASTER_ADDR and MASTER_PORT, or unset RANK and WORLD_SIZE to work alone."
        )
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        init_method="env://" if place.address is None else f"tcp://{place.address}",
        rank=place.rank,
        world_size=place.world_size,
        timeout=_TIMEOUT,
    )
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        # The threads of a group that is still held meet the end of Python: an abort, at times.
        release_replicas()
        dist.destroy_process_group()
