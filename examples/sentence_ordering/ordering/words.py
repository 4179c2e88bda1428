"""A few texts as the network orders them, in words."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .corpus import Text
from .scoring import IGNORED, kendall_tau
from .tokens import Tokens, shuffled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ordered_in_words"]

_WIDTH = 100


def ordered_in_words(
    texts: Sequence[Text],
    tokens: Sequence[Tokens],
    tokenizer: "PreTrainedTokenizerBase",
    logits_of: Callable[[list[dict[str, Any]]], Any],
    *,
    count: int,
    max_length: int,
) -> str:
    """Return some texts, their sentences in the order that the network gives them.

    Args:
        texts: The texts to choose from, evenly.
        tokens: Their tokens.
        tokenizer: What made them.
        logits_of: Returns the logits, shape (N, T, 1), of examples without labels.
        count: How many texts.
        max_length: The most tokens of a text.
    """
    chosen = [i * len(texts) // count for i in range(min(count, len(texts)))]
    if not chosen:
        return ""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for index in chosen:
        order = torch.randperm(len(tokens[index]), generator=generator).tolist()
        marker_id, end_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        examples.append(shuffled(tokens[index], order, marker_id, end_id, max_length))
    logits = torch.as_tensor(logits_of([{"input_ids": each["input_ids"]} for each in examples]))
    return "\n\n".join(
        _in_words(texts[index], torch.tensor(example["labels"]), logits[row])
        for row, (index, example) in enumerate(zip(chosen, examples, strict=True))
    )


def _in_words(text: Text, labels: Tensor, logits: Tensor) -> str:
    logits = logits[: len(labels)]
    marked = labels != IGNORED
    order = logits[marked].flatten().argsort(stable=True)
    places = labels[marked][order].tolist()
    tau = kendall_tau(logits[None], labels[None]).item()
    in_place = sum(place == rank for rank, place in enumerate(places))
    lines = [f"{text.title}: {in_place} of {len(places)} in place, tau {tau:.2f}"]
    for rank, place in enumerate(places, start=1):
        sentence = textwrap.shorten(text.sentences[place], _WIDTH, placeholder=" ...")
        lines.append(f"  {rank}. (truly {place + 1}.) {sentence}")
    return "\n".join(lines)
