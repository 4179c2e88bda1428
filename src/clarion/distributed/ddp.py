"""Several ranks that each hold the whole network and take their rows of every batch."""

import contextlib
import hashlib
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data.distributed import DistributedSampler

from clarion.checkpoints.random import RandomState
from clarion.data.batch import Batch
from clarion.data.feed import Feed
from clarion.data.nested import map_structure, torch_apply
from clarion.data.order import LoaderState
from clarion.distributed.replica import Replica
from clarion.distributed.rows import rows_of
from clarion.errors import DataError, InvalidArgumentError

__all__ = ["DDP"]

_ASKS_EVERY = 8  # steps between two questions, where steps are queued on a device
_MOST_BYTES = 2**20  # of a batch that are compared between ranks


class DDP:
    """Shares each batch between the ranks of the default process group.

    The ranks draw the same random numbers, those of rank 0, wherever data is read; the network
    and the batch transform draw numbers of their own on each rank.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.asks_every = 1
        self._host = _host_group()
        self._replica: Replica | None = None
        self._same_network = False
        self._warned = False
        self._shared = _states()
        self._share_randomness(LoaderState(()))

    def __reduce__(self) -> tuple[Any, ...]:
        return DDP, ()  # a process group cannot be copied: the copy joins it anew

    def wrap(self, network: nn.Module) -> Callable[..., Any]:
        """Return the network in a wrapper, the same one each time."""
        if self._replica is None or self._replica.network is not network:
            self._replica = Replica(network, self.agree, self._shared_randomness)
        parameter = next(network.parameters(), None)
        on_host = parameter is None or parameter.device.type == "cpu"
        self.asks_every = 1 if on_host else _ASKS_EVERY
        return self._replica

    def shard(self, feed: Feed) -> Feed:
        """Give every rank the random states of rank 0, the loader's own too, and return the feed.

        Raises:
            InvalidArgumentError: If the loader has a ``DistributedSampler``.
        """
        loader = feed.loader
        if isinstance(getattr(loader, "sampler", None), DistributedSampler):
            raise InvalidArgumentError(
                "The loader has a DistributedSampler, and clarion gives each rank its rows of "
                "every batch itself. Leave the sampler out; batch_size counts the examples of all "
                "ranks together."
            )
        self._share_randomness(LoaderState([loader]))
        return feed

    def part(self, batch: Batch, number: int, where: str) -> Batch:
        """Return this rank's rows of a batch, a filler if there is none for it."""
        if number == 1:
            self._compare(batch, where)
        return rows_of(batch, self.rank, self.world_size, where)

    @contextlib.contextmanager
    def own_randomness(self, *position: int) -> Iterator[None]:
        """Draw from torch's generators as the seed, the position and the rank say."""
        self._shared = _states()
        words = (torch.initial_seed(), *position, self.rank)
        digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
        _seed(int.from_bytes(digest, "big") >> 1)
        try:
            yield
        finally:
            _set_states(self._shared)

    @contextlib.contextmanager
    def _shared_randomness(self) -> Iterator[None]:
        """Draw, inside of `own_randomness`, what every rank draws."""
        own = _states()
        _set_states(self._shared)
        try:
            yield
        finally:
            self._shared = _states()
            _set_states(own)

    def total(self, weight: float | Tensor) -> float | Tensor:
        """Return the sum of a weight over the ranks."""
        if isinstance(weight, Tensor):
            wide = torch.float32 if weight.device.type == "mps" else torch.float64
            whole = weight.detach().to(wide, copy=True)
            dist.all_reduce(whole, group=self._group_of(whole))
            return whole
        number = torch.tensor(float(weight), dtype=torch.float64)
        dist.all_reduce(number, group=self._host)
        return float(number)

    def synchronising(
        self, closes_step: bool, *position: int
    ) -> contextlib.AbstractContextManager[Any]:
        """Let gradients meet in the next backward pass, if it closes a step."""
        if self._replica is not None:
            self._replica.closes_step = closes_step
        return self.own_randomness(*position)

    def settle(self, network: nn.Module, *, buffers_only: bool = False) -> None:
        """Give every rank the parameters and buffers of rank 0, or its buffers alone.

        Raises:
            InvalidArgumentError: If the ranks built different networks.
        """
        if not self._same_network:
            self._check_same_network(network)
        tensors: Iterable[Tensor] = network.buffers()
        if not buffers_only:
            tensors = chain(network.parameters(), tensors)
        for tensor in tensors:
            if is_lazy(tensor) or not tensor.numel():
                continue
            # As bytes: not every backend knows every dtype.
            flat = tensor.data.contiguous().reshape(-1).view(torch.uint8)
            dist.broadcast(flat, 0, group=self._group_of(flat))
            if self.rank:
                tensor.data.copy_(flat.view(tensor.dtype).reshape(tensor.shape))

    def agree(self, flag: bool) -> bool:
        """Return whether the flag of some rank is True."""
        highest = torch.tensor(int(flag))
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self._host)
        return bool(highest)

    def reduce(self, sums: list[Tensor]) -> list[Tensor]:
        """Return sums, alike on all ranks, added up over them: one message for all of them."""
        if not sums:
            return sums
        # On the host: a rank that has seen nothing does not know on which device the others are.
        flat = torch.cat([one.detach().cpu().double().reshape(-1) for one in sums])
        dist.all_reduce(flat, group=self._host)
        parts = flat.split([one.numel() for one in sums])
        return [part.reshape(one.shape).to(one) for part, one in zip(parts, sums, strict=True)]

    def gather(self, own: Any) -> list[Any]:
        """Return what the ranks give, in their order."""
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, torch_apply(own, _to_host), group=self._host)
        return gathered

    def _group_of(self, tensor: Tensor) -> Any:
        return self._host if tensor.device.type == "cpu" else None

    def _share_randomness(self, order: LoaderState) -> None:
        state = RandomState()
        own = state.state_dict() | {"cuda": [], "order": order.state_dict()}
        shared: list[Any] = [own if self.rank == 0 else None]
        dist.broadcast_object_list(shared, 0, group=self._host)
        if self.rank:
            state.load_state_dict(shared[0])
            order.load_state_dict(shared[0]["order"])

    def _check_same_network(self, network: nn.Module) -> None:
        named = chain(network.named_parameters(), network.named_buffers())
        shapes = [(n, None if is_lazy(t) else tuple(t.shape)) for n, t in named]
        others = self.gather(shapes)
        for rank, theirs in enumerate(others):
            if theirs != others[0]:
                raise InvalidArgumentError(
                    f"The ranks built different networks: rank 0 has {len(others[0])} parameters "
                    f"and buffers, rank {rank} has {len(theirs)}, or their shapes differ. Build "
                    "the same network on every rank."
                )
        self._same_network = True

    def _compare(self, batch: Batch, where: str) -> None:
        """See to it that the ranks read the same batch."""
        truth = batch.inputs if batch.target is None else batch.target
        found = self.gather((batch.size, _checksum(truth)))
        for rank, (size, content) in enumerate(found):
            if size != found[0][0]:
                raise DataError(
                    f"{where} has {found[0][0]} examples on rank 0 and {size} on rank {rank}. "
                    "Every rank has to read the same batches: clarion gives each its rows of them."
                )
            if content != found[0][1] and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{where} differs between rank 0 and rank {rank}, so that examples may be left "
                    "out or counted twice. Let every rank read the same data in the same order: "
                    "give the loader's sampler a seed. If only augmentation differs, all is well.",
                    stacklevel=2,
                )


_host_groups: dict[Any, Any] = {}


def _host_group() -> Any:
    """Return a group that can send what is on the host: the default one, or one beside it."""
    if "gloo" in str(dist.get_backend_config()):
        return None
    world = dist.group.WORLD
    if world not in _host_groups:
        _host_groups.clear()
        _host_groups[world] = dist.new_group(backend="gloo")
    return _host_groups[world]


def _states() -> list[Tensor]:
    """Return the states of torch's generators of the host and of this rank's device."""
    on_device = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_device else [])]


def _set_states(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def _seed(seed: int) -> None:
    # torch.manual_seed looks for every kind of device first, which takes 50 times as long.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _checksum(structure: Any) -> int:
    """Return a number that differs where tensors on the host do."""
    total = 0

    def add(leaf: Any) -> None:
        nonlocal total
        if isinstance(leaf, Tensor) and leaf.device.type == "cpu" and leaf.numel():
            flat = leaf.detach().reshape(-1)[: _MOST_BYTES // leaf.element_size()].contiguous()
            total = zlib.crc32(flat.view(torch.uint8).numpy().tobytes(), total)

    map_structure(structure, add)
    return total
