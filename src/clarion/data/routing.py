"""The way from what a loader yields to a batch, written once."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from clarion.data.batch import Batch
from clarion.data.memory_format import CHANNELS_LAST
from clarion.data.nested import from_numpy, map_structure
from clarion.data.size import Told, get_batch_size
from clarion.errors import DataError, InvalidTypeError, kind_of, quoted, suggestion

__all__ = ["TARGET_KEYS", "Router", "inner_network"]

TARGET_KEYS = ("labels", "label")
"""The keys of a batch's mapping that are the target, first found first."""

_Convert = Callable[[Any], Any]

_SEQUENCES = (list, tuple)
_PLAIN = (Tensor, list, tuple)  # no mapping, which takes longer to ask
_REDUCED = frozenset({torch.bfloat16, torch.float16})
_MOST_KINDS = 16
_OTHER_INTEGERS = frozenset(
    {
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)


class Router:
    """Turns raw batches into ``Batch``es for one network.

    In this order: the user's ``unpack``; a pair ``(x, y)``, or a triple with the weights of the
    examples in the loss, ``(x, y, weight)``; a mapping whose keys are the network's
    parameters, ``labels`` or ``label`` being the target; when predicting, a bare input. A tuple
    or list ``x`` becomes positional arguments, a mapping keyword arguments if the network's
    parameters cover its keys, and anything else one argument.

    Args:
        network: The network whose ``forward`` is called.
        unpack: A function from a raw batch to a ``Batch``, instead of these rules.
        target_keys: The keys of a mapping that hold the target.
        computes_loss: Whether the network computes the loss itself, and so gets the target too:
            under the first of ``target_keys`` that ``forward`` names.
        channels_last: Whether images, inputs of 4 or 5 dimensions, get the memory format of images.

    Attributes:
        target_keys: As above.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        unpack: Callable[[Any], Batch] | None = None,
        target_keys: Sequence[str] = TARGET_KEYS,
        computes_loss: bool = False,
        channels_last: bool = False,
    ) -> None:
        self._network = network
        self._unpack = unpack
        self.target_keys = tuple(target_keys)
        self._computes_loss = computes_loss
        self._formats = CHANNELS_LAST if channels_last else {}
        self._parameters, self._takes_any = _parameters_of(network)
        self._reported: set[str] = set()
        self._as_they_are: set[tuple[Any, ...]] = set()
        self._floating: Tensor | None = None  # a parameter, whose dtype inputs get; asked once
        self._converting: tuple[Any, Any, _Convert, _Convert] | None = None

    @property
    def hands_on(self) -> bool:
        """Whether batches hold what the loader yielded, and not what a user's ``unpack`` made."""
        return self._unpack is None

    def route(self, raw: Any, *, supervised: bool = True, where: str = "A batch") -> Batch:
        """Return the batch that a loader's raw batch means.

        Args:
            raw: What the loader yielded, on any device.
            supervised: Whether the raw batch carries a target.
            where: Which batch this is, for errors.

        Raises:
            DataError: If the raw batch is neither a pair nor a mapping that fits the network.
        """
        if self._unpack is not None:
            batch = self._unpacked(raw, where)
        elif not isinstance(raw, _PLAIN) and isinstance(raw, Mapping) and self._names_some(raw):
            batch = self._from_mapping(raw, supervised, where)
        elif supervised and not (self._computes_loss and _is_bare(raw)):
            batch = self._from_pair(raw, where)
        else:
            batch = self._with_input(raw[0] if _is_sequence(raw) and len(raw) == 1 else raw)
        if batch.size is not None:
            batch.size = Told(batch.size)
            return batch
        inputs, target = batch.inputs, batch.target
        batch.size = get_batch_size(inputs) if target is None else get_batch_size(inputs, target)
        return batch

    def at_once(
        self, raw: Any, device: torch.device | None, *, supervised: bool = True
    ) -> Batch | None:
        """Return the batch of tensors that need no preparation, None for all else.

        What needs none is learnt from what `route` and `prepare` did: the answer is the same.

        Args:
            raw: What the loader yielded: a pair, or if it is not supervised one tensor.
            device: See `prepare`.
            supervised: See `route`.
        """
        kind = _kind_of_pair(raw) if supervised else _kind_of_input(raw)
        if kind is None or (device, self._own_dtype, *kind) not in self._as_they_are:
            return None
        if not supervised:
            return Batch((raw,), {}, None, raw.size(0))
        return Batch((raw[0],), {}, raw[1], raw[0].size(0))

    def all_at_once(
        self, raws: Sequence[Any], device: torch.device | None, *, supervised: bool = True
    ) -> list[Batch] | None:
        """Return the same of several that were cut from the same tensors.

        Args: see `at_once`.
        """
        if self.at_once(raws[0], device, supervised=supervised) is None:
            return None
        if not supervised:
            return [Batch((x,), {}, None, x.shape[0]) for x in raws]
        return [Batch((x,), {}, y, x.shape[0]) for x, y in raws]

    def learn(
        self, raw: Any, batch: Batch, device: torch.device | None, *, supervised: bool = True
    ) -> None:
        """Take note if a raw batch came through `route` and `prepare` unchanged.

        Args:
            raw: What the loader yielded.
            batch: What became of it.
            device: See `prepare`.
            supervised: See `route`.
        """
        kind = _kind_of_pair(raw) if supervised else _kind_of_input(raw)
        if kind is None or self._unpack is not None or self._formats or batch.kwargs:
            return
        x, y = raw if supervised else (raw, None)
        unchanged = len(batch.args) == 1 and batch.args[0] is x and batch.target is y
        if unchanged and len(self._as_they_are) < _MOST_KINDS:
            self._as_they_are.add((device, self._own_dtype, *kind))

    def prepare(self, batch: Batch, device: torch.device | None) -> Batch:
        """Make the batch ready for the network: as tensors, on the device, in a dtype that works.

        float64 becomes the network's dtype (in targets float32 if that is a reduced one), floats
        become float64 for a network of float64, and targets of other integers become int64, as the
        losses of torch want them; everything else stays as it is.
        """
        ready, ready_target = self._conversions(device)
        batch.args = tuple([map_structure(value, ready) for value in batch.args])
        if batch.kwargs:
            target = batch.target  # which the network may get too
            batch.kwargs = {
                key: map_structure(v, ready_target if v is target else ready)
                for key, v in batch.kwargs.items()
            }
        if batch.target is not None:
            batch.target = map_structure(batch.target, ready_target)
        if batch.weight is not None:
            batch.weight = map_structure(batch.weight, ready_target)
        return batch

    @property
    def _own_dtype(self) -> torch.dtype | None:
        return None if self._floating is None else self._floating.dtype

    def _conversions(self, device: torch.device | None) -> tuple[_Convert, _Convert]:
        """Return what makes inputs and targets ready; the same functions for batch after batch."""
        if self._floating is None:
            self._floating = next(
                filter(Tensor.is_floating_point, self._network.parameters()), None
            )
        dtype = None if self._floating is None else self._floating.dtype
        known = self._converting
        if known is None or known[0] is not device or known[1] is not dtype:
            target_dtype = torch.float32 if dtype in _REDUCED else dtype
            ready = partial(_ready, device, dtype, self._formats)
            ready_target = partial(_ready_target, device, target_dtype)
            self._converting = known = (device, dtype, ready, ready_target)
        return known[2], known[3]

    def _unpacked(self, raw: Any, where: str) -> Batch:
        assert self._unpack is not None
        try:
            batch = self._unpack(raw)
        except Exception as error:
            error.add_note(f"This happened in unpack. {where} is {_described(raw)}.")
            raise
        if not isinstance(batch, Batch):
            raise InvalidTypeError(
                f"unpack returned {kind_of(batch)}; it must return a Batch, for example "
                "clarion.Batch(args=(x,), target=y)."
            )
        return batch

    def _from_pair(self, raw: Any, where: str) -> Batch:
        if not _is_sequence(raw) or len(raw) not in (2, 3):
            raise DataError(f"{where} is {_described(raw)}{self._remedy(raw)}")
        batch = self._with_input(raw[0])
        batch.target = raw[1]
        batch.weight = raw[2] if len(raw) == 3 else None
        self._hand_target(batch)
        return batch

    def _hand_target(self, batch: Batch, given_as: str = "") -> None:
        """Give the target to a network that computes the loss and lacks it, by its own name."""
        if not self._computes_loss or batch.target is None:
            return
        name = next((key for key in self.target_keys if key in self._parameters), None)
        if name is None or name in batch.kwargs:
            return
        if self._parameters.index(name) >= len(batch.args):
            batch.kwargs.pop(given_as, None)  # a forward with **kwargs takes any name
            batch.kwargs[name] = batch.target

    def _with_input(self, x: Any) -> Batch:
        if isinstance(x, Tensor):  # asked first, since it is quick to answer
            return Batch((x,))
        if _is_sequence(x):
            return Batch(tuple(x))
        if isinstance(x, Mapping) and self._covers(x):
            return Batch(kwargs=dict(x))
        return Batch((x,))

    def _from_mapping(self, raw: Mapping[str, Any], supervised: bool, where: str) -> Batch:
        target_key = next((key for key in self.target_keys if key in raw), None)
        if supervised and target_key is None and not self._computes_loss:
            raise DataError(f"{where} is {_described(raw)}{self._remedy(raw)}")
        taken = {key: value for key, value in raw.items() if self._takes(key)}
        if target_key is not None and not self._computes_loss:
            taken.pop(target_key, None)
        self._report_unused(set(raw) - set(taken) - {target_key})
        if target_key is None:
            return Batch(kwargs=taken)
        batch = Batch(kwargs=taken, target=raw[target_key])
        self._hand_target(batch, target_key)
        return batch

    def _takes(self, key: str) -> bool:
        return self._takes_any or key in self._parameters

    def _covers(self, x: Mapping[str, Any]) -> bool:
        return bool(x) and all(isinstance(key, str) and self._takes(key) for key in x)

    def _names_some(self, raw: Mapping[str, Any]) -> bool:
        inputs = [key for key in raw if key not in self.target_keys]
        return any(isinstance(key, str) and self._takes(key) for key in inputs)

    def _report_unused(self, keys: set[str]) -> None:
        fresh = sorted(keys - self._reported)
        if fresh:
            self._reported.update(fresh)
            warnings.warn(
                f"The batches hold {quoted(fresh)}, which {type(self._network).__name__}.forward "
                "does not take, so clarion passes it over. Remove it from the data, or route it "
                "with unpack=...",
                stacklevel=2,
            )

    def _remedy(self, raw: Any) -> str:
        targets = " or ".join(f'"{key}"' for key in self.target_keys)
        forward = f"{type(self._network).__name__}.forward ({', '.join(self._parameters)})"
        if _is_bare(raw):
            return (
                ", without a target. Pass y beside x, as in fit(x, y), or batches that are pairs "
                "(x, y)."
            )
        if isinstance(raw, Mapping) and any(key in raw for key in self.target_keys):
            others = [str(key) for key in raw if key not in self.target_keys]
            hint = next(filter(None, (suggestion(key, self._parameters) for key in others)), ".")
            return (
                f", none of which is a parameter of {forward}{hint} Rename the keys, or pass "
                "unpack=..., a function that returns a Batch."
            )
        if isinstance(raw, Mapping) and self._names_some(raw):
            spare = next((str(key) for key in raw if not self._takes(key)), "y")
            return (
                f", and none of them is the target: clarion looks for {targets}. "
                f'Say which it is, as in Model(..., target_keys=("{spare}",)).'
            )
        return (
            f"; clarion reads pairs (x, y), triples (x, y, weight) and mappings with {targets} "
            f"whose other keys are parameters of {forward}. Pass unpack=..., a function that "
            "returns a Batch."
        )


def _ready(
    device: torch.device | None,
    dtype: torch.dtype | None,
    formats: Mapping[int, torch.memory_format],
    leaf: Any,
) -> Any:
    if isinstance(leaf, np.ndarray):
        # A network that works in place would end the process where the memory is a file's.
        leaf = from_numpy(leaf if leaf.flags.writeable else leaf.copy())
    if not isinstance(leaf, Tensor):
        return leaf
    is_wide = leaf.dtype is torch.float64
    widened = dtype is torch.float64 and leaf.is_floating_point()
    wanted = dtype if is_wide or widened else None
    layout = formats.get(leaf.ndim) if formats else None
    if wanted is None and layout is None and (device is None or leaf.device == device):
        return leaf
    layout = layout or torch.preserve_format
    return leaf.to(device=device, dtype=wanted, non_blocking=True, memory_format=layout)


def _ready_target(device: torch.device | None, dtype: torch.dtype | None, leaf: Any) -> Any:
    leaf = _ready(device, dtype, {}, leaf)
    if isinstance(leaf, Tensor) and leaf.dtype in _OTHER_INTEGERS:
        return leaf.long()
    return leaf


def inner_network(network: Any) -> Any:
    """Return what a network is inside what ``torch.compile`` or PEFT put around it."""
    network = getattr(network, "_orig_mod", network)
    # Asked of the type, since a mock has every attribute.
    return network.get_base_model() if hasattr(type(network), "get_base_model") else network


def _parameters_of(network: nn.Module) -> tuple[tuple[str, ...], bool]:
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return (), False
    named = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    # A wrapper takes (*args, **kwargs); what is inside names them.
    inner = network if named else inner_network(network)
    if inner is not network:
        return _parameters_of(inner)
    # A forward of (*args, **kwargs) hands everything on, so it says nothing about names.
    takes_any = bool(named) and any(p.kind is p.VAR_KEYWORD for p in parameters)
    return named, takes_any


def _kind_of_input(raw: Any) -> tuple[Any, ...] | None:
    return None if type(raw) is not Tensor or raw.ndim == 0 else (raw.dtype, raw.device)


def _kind_of_pair(raw: Any) -> tuple[Any, ...] | None:
    if type(raw) not in (tuple, list) or len(raw) != 2:
        return None
    x, y = raw
    if type(x) is not Tensor or type(y) is not Tensor or x.ndim == 0:
        return None
    return x.dtype, y.dtype, x.device, y.device


def _is_sequence(value: Any) -> bool:
    return isinstance(value, _SEQUENCES) and not isinstance(value, PackedSequence)


def _is_bare(raw: Any) -> bool:
    return isinstance(raw, Tensor | np.ndarray | PackedSequence)


def _described(raw: Any) -> str:
    if isinstance(raw, Mapping):
        return f"{kind_of(raw)} with keys {quoted(raw)}"
    if _is_sequence(raw):
        return f"{kind_of(raw)} of {len(raw)}"
    if hasattr(raw, "shape"):
        return f"one {type(raw).__name__} of shape {tuple(raw.shape)}"
    return kind_of(raw)
