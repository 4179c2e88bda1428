"""Shuffled texts as tokens: each sentence behind a marker whose logit is to be its place."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from clarion.errors import InvalidArgumentError

from .corpus import Text
from .scoring import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["Tokens", "collate_function", "mark", "shuffled", "tokenize", "tokenized_split"]

Tokens = list[list[int]]
"""The tokens of each sentence of a text, in the true order; each starts with the marker."""

_WRITTEN_MARKER = "[CLS]"


def mark(sentence: str, marker: str) -> str:
    """Return a sentence with the tokenizer's own marker in front, and nowhere else.

    Texts that were written for BERT carry "[CLS]", which means nothing to other tokenizers.

    Example:
        >>> mark("[CLS] He woke up.", "<s>")
        '<s> He woke up.'
    """
    bare = sentence.replace(_WRITTEN_MARKER, " ").replace(marker, " ")
    return f"{marker} {' '.join(bare.split())}"


def tokenize(
    texts: Iterable[Text], tokenizer: "PreTrainedTokenizerBase", per_sentence: int
) -> list[Tokens]:
    """Return the tokens of each text.

    Args:
        texts: The texts.
        tokenizer: A tokenizer that has a cls token, whatever that is.
        per_sentence: The most tokens of a sentence, its marker included; the rest is cut off.

    Raises:
        InvalidArgumentError: If the tokenizer has no cls token.
    """
    marker = tokenizer.cls_token
    if marker is None:
        raise InvalidArgumentError(
            f"{type(tokenizer).__name__} has no cls token to mark sentences with; choose an "
            'encoder that has one, or set tokenizer.cls_token = "[CLS]" and resize the embeddings.'
        )
    texts = list(texts)
    sentences = [mark(sentence, marker) for text in texts for sentence in text.sentences]
    encoded = tokenizer(
        sentences, add_special_tokens=False, truncation=True, max_length=per_sentence
    )
    ids = iter(encoded["input_ids"])
    return [[next(ids) for _ in text.sentences] for text in texts]


def shuffled(
    tokens: Tokens, order: Sequence[int], marker_id: int, end_id: int | None, max_length: int
) -> dict[str, list[int]]:
    """Return one example: a text with its sentences in another order.

    Args:
        tokens: The tokens of its sentences, in the true order.
        order: The true place of the sentence that comes first, second, and so on.
        marker_id: The id of the marker.
        end_id: The id of the token that ends a text; None if there is none.
        max_length: The most tokens of a text; the rest is cut off, and with it the places of
            the sentences whose marker is gone.

    Returns:
        ``input_ids``, and ``labels`` of the same length: places at markers, -100 elsewhere.
    """
    end = [] if end_id is None else [end_id]
    ids = [token for place in order for token in tokens[place]][: max_length - len(end)] + end
    markers = [position for position, token in enumerate(ids) if token == marker_id]
    labels = [IGNORED] * len(ids)
    # As many places as there are markers left.
    for position, place in zip(markers, order, strict=False):
        labels[position] = place
    return {"input_ids": ids, "labels": labels}


def tokenized_split(
    texts: Sequence[Tokens],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    seed: int,
    num_examples: int | None = None,
) -> "Dataset":
    """Return a ``datasets`` split of shuffled texts.

    Args:
        texts: The tokens of the texts.
        tokenizer: The tokenizer that made them.
        max_length: The most tokens of a text.
        seed: What texts and orders are drawn from.
        num_examples: How many examples to make: every text once, in another order every text
            again, and so on. None for every text once, sorted by length, as evaluations like it.
    """
    from datasets import Dataset

    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, list[int]]] = []
    wanted = len(texts) if num_examples is None else num_examples
    while len(rows) < wanted:
        for index in torch.randperm(len(texts), generator=generator).tolist()[: wanted - len(rows)]:
            order = torch.randperm(len(texts[index]), generator=generator).tolist()
            marker_id, end_id = tokenizer.cls_token_id, tokenizer.sep_token_id
            rows.append(shuffled(texts[index], order, marker_id, end_id, max_length))
    if num_examples is None:
        rows.sort(key=lambda row: len(row["input_ids"]))
    return Dataset.from_list(rows)


def collate_function(
    tokenizer: "PreTrainedTokenizerBase", pad_to_multiple_of: int
) -> Callable[[list[dict[str, Any]]], Any]:
    """Return the function that pads examples to the longest of their batch.

    Args:
        tokenizer: What knows how to pad.
        pad_to_multiple_of: What lengths are rounded up to. A CPU keeps a kernel for each shape
            that it meets, so a few shapes are faster than many, and take less memory.
    """
    from transformers import DataCollatorForTokenClassification

    return DataCollatorForTokenClassification(
        tokenizer, pad_to_multiple_of=pad_to_multiple_of, label_pad_token_id=IGNORED
    )
