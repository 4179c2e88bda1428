"""What helps against an error of the network, as far as its words and the batch tell."""

import inspect
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clarion.data.batch import Batch
from clarion.engine.stage import Stage
from clarion.errors import quoted, suggestion

__all__ = ["dtype_name", "remedy_of"]

_REDUCED = (torch.bfloat16, torch.float16)


def remedy_of(error: Exception, stage: Stage, batch: Batch, network: nn.Module) -> str:
    """Return a sentence on what to do about an error of the network; empty if nothing is known.

    Args:
        error: What the network raised.
        stage: The stage.
        batch: What it was called with.
        network: The network.
    """
    return (
        _remedy_for_call(error, batch, network)
        or _remedy_for_several(error, stage, batch)
        or _remedy_for_long_texts(batch, network)
        or _remedy_for_weights(error, batch, network)
        or _remedy_for_indices(error, network)
        or _remedy_for_inputs(error, batch, network)
        or _remedy_for_shapes(error, batch)
        or _remedy_for_words(error, batch)
    )


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype, for example ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def _remedy_for_call(error: Exception, batch: Batch, network: nn.Module) -> str:
    """Return which key a batch lacks, or has under another name; empty if it is not about that."""
    if not isinstance(error, TypeError):
        return ""
    try:
        signature = inspect.signature(network.forward)
        given = signature.bind_partial(*batch.args, **batch.kwargs).arguments
    except (TypeError, ValueError):
        return ""
    lacking = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in given
    ]
    where = f"{type(network).__name__}.forward"
    whole = batch.args[0] if len(batch.args) == 1 else None
    if not lacking:
        if not isinstance(whole, Mapping) or "dict" not in str(error):
            return ""
        if set(whole) & set(signature.parameters):
            return ""
        return (
            f"The network got a dict with the keys {quoted(whole)} as one argument, since none is "
            f"a parameter of {where}: {quoted(signature.parameters)}. Give the keys of the data "
            "these names, or let forward take the dict."
        )
    if isinstance(whole, Mapping):
        keys = [str(key) for key in whole]
        wrong = next((key for key in keys if key not in signature.parameters), keys[0])
        return (
            f'The key "{wrong}" is no parameter of {where}'
            f"{suggestion(wrong, signature.parameters) or '.'} Its parameters: "
            f"{quoted(signature.parameters)}. Give the keys of the data these names."
        )
    return (
        f"{where} takes {quoted(signature.parameters)}, and the data has no {quoted(lacking)}: "
        "add it, or give the parameter a default."
    )


def _remedy_for_several(error: Exception, stage: Stage, batch: Batch) -> str:
    """Return how several inputs are meant; empty if there is one, or it is not about that."""
    if not isinstance(error, TypeError) or "argument" not in str(error) or len(batch.args) < 2:
        return ""
    if stage.name == "predict" and len(batch.args) == 2:
        return "If the batches are pairs (x, y), pass has_ground_truth=True."
    return (
        "A tuple or list of inputs is one argument each; pass a single input bare, and a list "
        "of examples as one array, np.stack(x)."
    )


def _remedy_for_words(error: Exception, batch: Batch) -> str:
    """Return what to do about texts and tables, which are no tensors; empty if there are none."""
    if isinstance(error, RuntimeError):
        return ""
    for value in (*batch.args, *batch.kwargs.values()):
        if hasattr(value, "to_numpy"):
            kind = type(value).__name__
            return (
                f"A {kind} in a batch comes to the network as it is: make an array of it, as in "
                'x.to_numpy("float32"). Whole tables are taken by fit, evaluate and predict.'
            )
    for name, value in batch.kwargs.items():
        if isinstance(value, list) and any(isinstance(one, str) for one in value):
            return (
                f'"{name}" holds text, which comes to the network as it is: encode labels as whole '
                "numbers from 0, and texts with a tokenizer, before the training."
            )
    return ""


def _remedy_for_long_texts(batch: Batch, network: nn.Module) -> str:
    """Return what to do about texts that are longer than the network takes."""
    ids = batch.kwargs.get("input_ids")
    most = getattr(getattr(network, "config", None), "max_position_embeddings", None)
    if isinstance(ids, Tensor) and ids.ndim == 2 and isinstance(most, int) and ids.shape[1] > most:
        return (
            f"The texts have {ids.shape[1]} tokens, and the network has {most} positions: cut "
            f"them, as in tokenizer(texts, truncation=True, max_length={most})."
        )
    return ""


def _remedy_for_weights(error: Exception, batch: Batch, network: nn.Module) -> str:
    """Return what to do about weights of half precision; empty if it is not about that."""
    weights = next((p for p in network.parameters() if p.dtype in _REDUCED), None)
    inputs = [v for v in _tensors(batch) if v.dtype is torch.float32]
    if not (inputs and weights is not None and _is_about_dtypes(error)):
        return ""
    kind = dtype_name(weights)
    return (
        f"The input is float32, and the weights are {kind}: keep them in float32, with "
        'network.float(), and pass precision="bf16-mixed"; or convert the input with '
        f"x.to(torch.{kind})."
    )


def _remedy_for_indices(error: Exception, network: nn.Module) -> str:
    """Return what indices an embedding takes; empty if it is not about that."""
    text = str(error)
    if "'indices'" in text and "scalar types: Long, Int" in text:
        return (
            "Embeddings take indices, which are whole numbers: convert them with x.long(), or "
            'x.astype("int64") of an ndarray.'
        )
    if "index out of range" not in text:
        return ""
    trace = error.__traceback__
    while trace is not None:
        table, indices = (trace.tb_frame.f_locals.get(name) for name in ("self", "input"))
        if isinstance(table, nn.Embedding) and isinstance(indices, Tensor):
            name = next((n for n, module in network.named_modules() if module is table), "")
            shown = f' "{name}"' if name else ""
            return (
                f"The Embedding{shown} has {table.num_embeddings} rows and "
                f"got indices from {int(indices.min())} to {int(indices.max())}: give it more "
                "rows, or the data fewer indices; positions are fewer in shorter texts."
            )
        trace = trace.tb_next
    return ""


def _remedy_for_inputs(error: Exception, batch: Batch, network: nn.Module) -> str:
    """Return how inputs become floats; empty if it is not about that."""
    if not _is_about_dtypes(error):
        return ""
    others = [v for v in _tensors(batch) if not v.is_floating_point()]
    if others and not any(isinstance(m, nn.Embedding) for m in network.modules()):
        pixels = ", and divide pixels by 255" if others[0].dtype is torch.uint8 else ""
        way = 'x.float(), or x.astype("float32") of an ndarray'
        if others[0].is_complex():
            way = "torch.view_as_real(x), two numbers for one, or x.abs()"
        return (
            f"The input is {dtype_name(others[0])}, and layers like Linear and Conv compute in "
            f"floats: convert it with {way}{pixels}."
        )
    halves = [v for v in _tensors(batch) if v.dtype in _REDUCED]
    if halves:
        return (
            f"The input is {dtype_name(halves[0])}, and the weights are not: convert it with "
            'x.float(); precision="bf16-mixed" computes faster with weights of float32.'
        )
    return ""


def _remedy_for_shapes(error: Exception, batch: Batch) -> str:
    """Return which shape is wanted; empty if it is not about that."""
    text = str(error)
    if isinstance(error, RuntimeError) and "channels" in text:
        return _remedy_for_channels(text, batch)
    if isinstance(error, ValueError) and "more than 1 value per channel when training" in text:
        return (
            "A normalisation over the batch needs more than one example: choose a batch_size that "
            'leaves no batch of one, or pass dataloader_kwargs={"drop_last": True}.'
        )
    label = re.match(r"Target (\d+) is out of bounds", text)
    if label is not None:
        return (
            "The network computes the loss itself, and has fewer outputs than there are classes: "
            f"count the labels from 0, or load it with num_labels={int(label[1]) + 1} or more."
        )
    flat = [v for v in _tensors(batch) if v.ndim == 1]
    if isinstance(error, RuntimeError) and "shape" in text and flat:
        return (
            f"The input has shape {tuple(flat[0].shape)}, one number per example, and layers want "
            "(examples, features): pass x.reshape(-1, 1)."
        )
    return ""


def _remedy_for_channels(text: str, batch: Batch) -> str:
    """Return where the channels of images stand; empty if it is not about that."""
    found = re.search(r"to have (\d+) channels, but got (\d+) channels", text)
    images = next((v for v in _tensors(batch) if v.ndim > 2), None)
    if found is None or images is None:
        return ""
    wanted, got = map(int, found.groups())
    if images.shape[-1] == wanted and images.shape[1] == got:
        return (
            "The channels stand last, and convolutions take them after the examples: pass "
            "x.movedim(-1, 1), or np.moveaxis(x, -1, 1) of an ndarray. channels_last=True changes "
            "how images lie in memory, not their shape."
        )
    if wanted == 1 and images.shape[0] == got:
        return "The images have no dimension for their channels, of which there is one: x[:, None]."
    return ""


def _is_about_dtypes(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and ("dtype" in text or "type" in text)


def _tensors(batch: Batch) -> list[Tensor]:
    return [v for v in (*batch.args, *batch.kwargs.values()) if isinstance(v, Tensor)]
