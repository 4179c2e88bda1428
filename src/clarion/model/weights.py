"""A model's weights, the state of its optimizer, and the devices they are on."""

import os
from collections.abc import Mapping
from typing import IO, Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from clarion.checkpoints.apply import apply_weights, check_optimizer_state
from clarion.checkpoints.weights import load_state, save_state
from clarion.data.nested import numpy_to_torch, torch_to
from clarion.distributed.data_parallel import DataParallel
from clarion.distributed.single import Single
from clarion.engine.optimizers import OptimizerPart, place_optimizer_state, relink_parameters
from clarion.engine.precision import make_precision
from clarion.errors import CheckpointError, InvalidArgumentError, suggestion
from clarion.model.examination import Examination

__all__ = ["Weights"]

_COMMON_DEVICES = ("cpu", "cuda", "mps", "xpu")
_File = str | os.PathLike[str] | IO[bytes]


class Weights(Examination):
    """Saving, loading and moving."""

    def save_weights(self, f: _File) -> None:
        """Save the network's ``state_dict``.

        Where several processes train together, the first writes a file that is given by its path;
        a file object is each one's own.

        Args:
            f: A path or a binary file object. A name that ends in ``.safetensors`` gets that
                format, any other the one of ``torch.save``.
        """
        self._save(self.network.state_dict(), f)

    def load_weights(self, f: _File, strict: bool = True) -> Any:
        """Load a ``state_dict`` into the network, without running any code of the file.

        Args:
            f: A path or a binary file object.
            strict: Whether every name and shape has to fit.

        Returns:
            torch's named tuple ``(missing_keys, unexpected_keys)``.

        Raises:
            MissingFileError: If there is no such file.
            CheckpointError: If the file is broken, unsafe, or does not fit the network.
        """
        return apply_weights(self.network, load_state(f), strict=strict, source=f)

    def save_optimizer_state(self, f: _File) -> None:
        """Save the optimizer's ``state_dict``; ``f`` is a path or a binary file object.

        Several processes: see ``save_weights``.
        """
        self._save(self._own_optimizer().state_dict(), f)

    def load_optimizer_state(self, f: _File) -> None:
        """Load the optimizer's ``state_dict``; ``f`` is a path or a binary file object.

        When an error is raised the optimizer has the state it had before.

        Raises:
            MissingFileError: If there is no such file.
            CheckpointError: If the file is broken, unsafe, of another optimizer, or of parameters
                of other shapes.
        """
        optimizer = self._own_optimizer()
        state = load_state(f)
        check_optimizer_state(optimizer, state, self.network, source=f)
        try:
            OptimizerPart(optimizer).load_state_dict(state)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f'Cannot load "{f}": the optimizer state does not fit this optimizer: {error}. '
                "Build the same optimizer over the same network."
            ) from error
        place_optimizer_state(optimizer)

    def get_weights(self) -> dict[str, Tensor]:
        """Return the network's ``state_dict``: the tensors themselves, which go on changing."""
        return self.network.state_dict()

    def get_weight_copies(self) -> dict[str, Tensor]:
        """Return a copy of the network's ``state_dict`` on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
            for name, value in self.get_weights().items()
        }

    def set_weights(self, weights: Mapping[str, Any], strict: bool = True) -> Any:
        """Put weights into the network.

        Args:
            weights: A ``state_dict``.
            strict: Whether every name and shape has to fit.

        Returns:
            torch's named tuple ``(missing_keys, unexpected_keys)``.
        """
        return apply_weights(self.network, weights, strict=strict)

    def preprocess_input(self, x: Any, y: Any = None) -> Any:
        """Return inputs as the network is called with them: tensors, on the device, in a tuple.

        Args:
            x: The inputs, as tensors or ndarrays.
            y: The targets, likewise, or None.

        Returns:
            ``x``, or ``(x, y)`` if there are targets; ``x`` is wrapped in a tuple unless it is a
            list or tuple.
        """
        x = self._placed(x)
        if not isinstance(x, list | tuple) or isinstance(x, PackedSequence):
            x = (x,)
        return x if y is None else (x, self._placed(y))

    def to(self, device: Any) -> Self:
        """Move network, loss, metrics and optimizer state to a device, and return the model.

        Args:
            device: A ``torch.device`` or its name; a list of them, or ``"all"`` for every CUDA
                device: each batch is then split over them, the first one being the main one.

        Raises:
            InvalidArgumentError: If there is no such device.
        """
        devices = _devices(device)
        if len(devices) > 1 and self._strategy.world_size > 1:
            raise InvalidArgumentError(
                f"device names {len(devices)} devices, and {self._strategy.world_size} processes "
                'share the work already: each has a device of its own. Pass device="cuda".'
            )
        self._move(devices[0])
        if len(devices) > 1:
            self._strategy = DataParallel(devices)
        elif isinstance(self._strategy, DataParallel):
            self._strategy = Single()
        if isinstance(device, list | tuple) or device == "all":
            self.device, self.other_device = devices[0], devices[1:] or None
        else:
            self.device, self.other_device = device, None
        self._device = devices[0]
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model to a CUDA device, as ``torch.nn.Module.cuda`` does."""
        device = args[0] if args else kwargs.get("device")
        name = "cuda" if device is None else device
        return self._to_plain(torch.device("cuda", name) if isinstance(name, int) else name)

    def cpu(self) -> Self:
        """Move the model to the CPU."""
        return self._to_plain("cpu")

    def _save(self, state: Mapping[str, Any], f: _File) -> None:
        if self._strategy.rank == 0 or not isinstance(f, str | os.PathLike):
            save_state(state, f)

    def _to_plain(self, device: Any) -> Self:
        self.to(device)
        parameter = next(self.network.parameters(), None)
        if parameter is not None:
            self.device = self._device = parameter.device
        return self

    def _move(self, device: torch.device) -> None:
        before = dict(self.network.named_parameters())
        try:
            self.network.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InvalidArgumentError(
                f'The network cannot be moved to "{device}": {error}. '
                'Use device="cpu", or a device that torch sees.'
            ) from error
        for module in self._metrics.modules():
            module.to(device)
        if self.optimizer is not None:
            relink_parameters(self.optimizer, before, self.network)
            place_optimizer_state(self.optimizer)
        state = self._precision.state_dict()
        self._precision = make_precision(self.precision, self.network)
        self._precision.load_state_dict(state)

    def _placed(self, value: Any) -> Any:
        value = numpy_to_torch(value)
        return value if self._device is None else torch_to(value, self._device)

    def _own_optimizer(self) -> Any:
        if self.optimizer is None:
            raise InvalidArgumentError(
                "The model has optimizer=None, so there is no optimizer state to save or load."
            )
        return self.optimizer


def _devices(device: Any) -> list[torch.device]:
    if isinstance(device, str) and device == "all":
        count = torch.cuda.device_count()
        if count == 0:
            raise InvalidArgumentError(
                'device="all" means every CUDA device, and torch sees none. Use device="cpu".'
            )
        return [torch.device("cuda", index) for index in range(count)]
    listed = list(device) if isinstance(device, list | tuple) else [device]
    if not listed:
        raise InvalidArgumentError("device is an empty list; name at least one device.")
    try:
        return [torch.device(one) for one in listed]
    except (RuntimeError, TypeError) as error:
        hint = suggestion(str(device).split(":")[0], _COMMON_DEVICES) or "."
        raise InvalidArgumentError(
            f"device is {device!r}, which torch does not have here{hint} "
            'Examples: "cpu", "cuda", "cuda:0", ["cuda:0", "cuda:1"], "all".'
        ) from error
