"""Networks that are chains of plain layers, which run and learn without a recorded graph."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain as joined
from operator import attrgetter, is_ as _is
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from clarion.engine.gradients import is_same
from clarion.layers.modes import hooks_on

__all__ = ["Chain", "surroundings"]

_Passed: TypeAlias = list[tuple["_Link", Tensor, Tensor]]
_aten = torch.ops.aten
_values: Callable[[Any], Any] = dict.values
_stride = Tensor.stride
_hooks_on: Callable[[Tensor], Any] = attrgetter("_backward_hooks")
_MOST_WORK = 2**24  # multiplications; these take milliseconds, and calls take microseconds


def _unknown(*_: Any) -> None:
    """Stand for what this version of torch does not tell."""


# Modes around torch's functions and operations, and hooks on what autograd saves (torch 2.13).
_functions = getattr(torch._C, "_len_torch_function_stack", _unknown)
_operations = getattr(torch._C, "_len_torch_dispatch_stack", _unknown)
_saving = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", _unknown)


class Chain:
    """An ``nn.Sequential`` of plain layers of torch, run and differentiated by their kernels.

    Autograd finds out anew at each batch what such a network does, which for a small one takes
    longer than doing it. Here the same kernels are called, those of the layers and those of their
    derivatives, so that predictions and gradients are the same, bit for bit: `agrees` sees to that.

    Args:
        network: The network.
        modules: It and all modules in it.
        links: Its layers.

    Attributes:
        parameters: The parameters, in the order of the network; each belongs to one layer.
    """

    def __init__(
        self, network: nn.Sequential, modules: list[nn.Module], links: list["_Link"]
    ) -> None:
        self._network = network
        self._links = links
        self.parameters = tuple(joined.from_iterable(link.parameters for link in links))
        # What was in front of the first layer that learns has nothing to be told in the end.
        self._first = next(i for i, link in enumerate(links) if link.parameters)
        self._hooks = hooks_on(modules)
        self._modules = modules
        self._holders = [one for m in modules for one in (m._modules, m._parameters, m._buffers)]
        self._looks = self._all_looks()
        self._strides = list(map(_stride, self.parameters))
        self._num_weights = sum(p.numel() for p in self.parameters)

    @classmethod
    def of(cls, network: Any) -> "Chain | None":
        """Return the chain that a network is, None if it is anything else.

        Args:
            network: The network. Its layers are `Linear`, `Flatten`, `Identity` and activations of
                torch, as they are: with hooks, a forward of their own, parametrizations or shared
                parameters they are something else.
        """
        if type(network) is not nn.Sequential:
            return None
        modules: list[nn.Module] = list(network.modules())
        layers = list(_layers_of(network))
        if not all(type(layer) in _LINKS for layer in layers) or any(map(_is_changed, modules)):
            return None
        links = [_LINKS[type(layer)](layer) for layer in layers]
        own = [p for link in links for p in link.parameters]
        if not own or not _are_plain(own, network):
            return None
        first = next(i for i, link in enumerate(links) if link.parameters)
        if any(getattr(layer, "inplace", False) for layer in layers[:first]):
            return None  # it changes the batch
        chain = cls(network, modules, links)
        return None if any(hook is None or hook for hook in chain._hooks) else chain

    def is_current(self) -> bool:
        """Tell whether the network is still what it was: no layer, weight or hook is another one.

        To be asked at each batch: it is quick.
        """
        if any(self._hooks) or any(map(_hooks_on, self.parameters)):
            return False
        looks = self._all_looks()
        same = len(looks) == len(self._looks) and all(map(_is, looks, self._looks))
        return same and list(map(_stride, self.parameters)) == self._strides

    def run(self, x: Tensor) -> Tensor:
        """Return the prediction for a batch of inputs; to be called without gradients."""
        for link in self._links:
            x = link.run(x)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, _Passed]:
        """Return the prediction for a batch, and what `backward` needs; without gradients."""
        passed: _Passed = []
        for link in self._links:
            y = link.run(x)
            passed.append((link, x, y))
            x = y
        return x, passed

    def backward(self, passed: _Passed, gradient: Tensor) -> list[Tensor]:
        """Return the gradient for each of the parameters; to be called without gradients.

        Args:
            passed: What `forward` returned; what is done with is taken out of it.
            gradient: That of the loss for the prediction.
        """
        found: list[Tensor] = []
        while True:
            link, x, y = passed.pop()  # its memory is free when the layer is done
            if link.parameters:
                link.learn(gradient, x, found)
            if len(passed) == self._first:
                break
            gradient = link.back(gradient, x, y)
        found.reverse()
        return found

    def places_of(self, parameters: Sequence[Tensor]) -> list[int]:
        """Return where each of some parameters is among the chain's, nothing if they are others."""
        places = {id(own): place for place, own in enumerate(self.parameters)}
        found = [places.get(id(one), -1) for one in parameters]
        return found if sorted(found) == list(range(len(places))) else []

    def is_worth(self, x: Tensor) -> bool:
        """Tell whether a batch of inputs is so little work that it matters who calls kernels."""
        return len(x) * self._num_weights <= _MOST_WORK

    def agrees(self, x: Tensor) -> bool:
        """Tell whether the chain does with a batch of inputs what the network does, bit for bit.

        A batch that is not worth it is not compared.
        """
        try:
            if not self.is_worth(x):
                return False
            with torch.enable_grad():
                expected = self._network(x)
                judged = expected.detach() + 1.0  # any numbers that are not all alike
                wanted = torch.autograd.grad(expected, self.parameters, judged)
            with torch.no_grad():
                prediction, passed = self.forward(x)
                found = self.backward(passed, judged)
        except Exception:  # such as inputs of more dimensions
            return False
        alike = len(wanted) == len(found)
        return alike and all(map(is_same, (expected, *wanted), (prediction, *found)))

    def _all_looks(self) -> list[Any]:
        """Return objects, of which one is another object when something changes in the network.

        They are the classes of modules, what is in them, and how many attributes each has: one that
        gains a ``forward`` of its own has one more.
        """
        attributes = map(len, map(vars, self._modules))
        held = joined.from_iterable(map(_values, self._holders))
        return [*map(type, self._modules), *attributes, *held]


def surroundings() -> tuple[Any, ...]:
    """Return what torch is told to do everywhere, which who calls kernels would not notice.

    Returns:
        Whether gradients, autocast and anomaly detection are on, then how many modes and which
        hooks are active: to be compared with what it was before.
    """
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_anomaly_enabled(),
        _functions(),
        _operations(),
        _saving(True),
    )


class _Link:
    """A layer without parameters, by its function and the derivative of it.

    Args:
        layer: The layer.
    """

    parameters: tuple[nn.Parameter, ...] = ()

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def run(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        raise NotImplementedError

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the gradient for the input.

        Args:
            gradient: That for the output.
            x: The input.
            y: The output.
        """
        raise NotImplementedError

    def learn(self, gradient: Tensor, x: Tensor, found: list[Tensor]) -> None:
        """Append the gradients for the parameters, the last one first."""


class _Linear(_Link):
    def __init__(self, layer: nn.Linear) -> None:
        self._weight, self._bias = layer.weight, layer.bias
        self.parameters = tuple(layer.parameters())

    def run(self, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight, self._bias)

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if x.stride() == (1, x.shape[0]):  # autograd (torch 2.13) keeps to the layout of the input
            return self._weight.t().mm(gradient.t()).t()
        return gradient.mm(self._weight)

    def learn(self, gradient: Tensor, x: Tensor, found: list[Tensor]) -> None:
        if self._bias is not None:
            found.append(gradient.sum(0))
        found.append(gradient.t().mm(x))


class _Identity(_Link):
    def run(self, x: Tensor) -> Tensor:
        return x

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return gradient


class _Flatten(_Link):
    def run(self, x: Tensor) -> Tensor:
        return x.flatten(self._layer.start_dim, self._layer.end_dim)

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return gradient.reshape(x.shape)


class _ReLU(_Link):
    def run(self, x: Tensor) -> Tensor:
        return x.relu()

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = _aten.threshold_backward.default(gradient, y, 0)
        return found


class _LeakyReLU(_Link):
    def run(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, self._layer.negative_slope)

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        slope = self._layer.negative_slope
        found: Tensor = _aten.leaky_relu_backward.default(gradient, x, slope, False)
        return found


class _Sigmoid(_Link):
    def run(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = _aten.sigmoid_backward.default(gradient, y)
        return found


class _Tanh(_Link):
    def run(self, x: Tensor) -> Tensor:
        return x.tanh()

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = _aten.tanh_backward.default(gradient, y)
        return found


class _GELU(_Link):
    def run(self, x: Tensor) -> Tensor:
        return functional.gelu(x, approximate=self._layer.approximate)

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        kind = self._layer.approximate
        found: Tensor = _aten.gelu_backward.default(gradient, x, approximate=kind)
        return found


class _SiLU(_Link):
    def run(self, x: Tensor) -> Tensor:
        return functional.silu(x)

    def back(self, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = _aten.silu_backward.default(gradient, x)
        return found


_LINKS: dict[type[nn.Module], Callable[[Any], _Link]] = {
    nn.Linear: _Linear,
    nn.Identity: _Identity,
    nn.Flatten: _Flatten,
    nn.ReLU: _ReLU,
    nn.LeakyReLU: _LeakyReLU,
    nn.Sigmoid: _Sigmoid,
    nn.Tanh: _Tanh,
    nn.GELU: _GELU,
    nn.SiLU: _SiLU,
}


def _layers_of(network: nn.Sequential) -> Iterator[nn.Module]:
    for module in network:
        if type(module) is nn.Sequential:
            yield from _layers_of(module)
        else:
            yield module


def _is_changed(module: nn.Module) -> bool:
    """Tell whether a module is called, or computes, otherwise than others of its class."""
    own = vars(module)
    if "forward" in own or "_compiled_call_impl" in own:
        return True
    # Any tensor can stand in the place of a parameter that was deleted.
    return type(module) is nn.Linear and list(module._parameters) != ["weight", "bias"]


def _are_plain(own: list[nn.Parameter], network: nn.Module) -> bool:
    """Tell whether these are all parameters of a network, plain ones on the host, in order."""
    every = list(network.parameters())
    if len(own) != len(every) or not all(map(_is, own, every)):
        return False
    return all(type(p) is nn.Parameter and p.is_cpu and p.is_contiguous() for p in own)
