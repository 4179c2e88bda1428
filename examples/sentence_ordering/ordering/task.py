"""Everything that is ready before a model is built: texts, their tokens, and the network."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import nn

from clarion.console import say
from clarion.data.bucketing import LengthBucketBatchSampler

from .corpus import Splits, Text, read_texts, split_by_document
from .network import best_device, best_precision, load_network, load_tokenizer, packaged_model
from .settings import Settings
from .tokens import Tokens, collate_function, tokenize, tokenized_split

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["Task", "prepare"]

_MULTIPLE = 16  # what the lengths of batches are rounded up to
_VALID_SEED, _TEST_SEED = 1, 2  # the same held-out examples whatever the seed of the training


@dataclass(frozen=True)
class Task:
    """What a training works with.

    Attributes:
        texts: The texts in words.
        test_tokens: The tokens of the test texts, in the order of ``texts.test``.
        tokenizer: What made them.
        network: The pretrained encoder with its head.
        train: The ``datasets`` split to train on, as long as the whole training.
        valid: The one to choose the best epoch by.
        test: The one to report on.
        max_length: The most tokens of a text.
        collate: Makes a padded batch of examples.
        sampler: Batches of similar length; one epoch goes on where the last one ended.
        device: Where to train.
        precision: The arithmetic.
        started: When all this began, by ``time.perf_counter``.
    """

    texts: Splits
    test_tokens: list[Tokens]
    tokenizer: "PreTrainedTokenizerBase"
    network: nn.Module
    train: "Dataset"
    valid: "Dataset"
    test: "Dataset"
    max_length: int
    collate: Callable[[list[dict[str, Any]]], Any]
    sampler: LengthBucketBatchSampler
    device: str
    precision: str
    started: float


def prepare(settings: Settings) -> Task:
    """Read, split and tokenise the texts and load the network, saying so along the way."""
    started = perf_counter()
    say("Reading the texts ...")
    texts = split_by_document(read_texts(settings.file, settings.shortest, settings.longest))
    say(
        f"  {len(texts.train):,} texts to train on, {len(texts.valid):,} to validate, "
        f"{len(texts.test):,} to test, of {settings.shortest} to {settings.longest} sentences"
    )
    model = settings.model or packaged_model()
    tokenizer = load_tokenizer(model)
    say("Turning their sentences into tokens ...")
    train, valid, test = (
        tokenize(part, tokenizer, settings.sentence_tokens)
        for part in (texts.train, texts.valid, texts.test)
    )
    num_examples = settings.epochs * settings.steps * settings.batch_size
    length = _longest(settings.text_tokens, tokenizer.model_max_length)
    train_split = tokenized_split(
        train, tokenizer, max_length=length, seed=settings.seed, num_examples=num_examples
    )
    say("Loading the encoder ...")
    network = load_network(
        model,
        fresh_token=tokenizer.cls_token_id if settings.fresh_marker else None,
        seed=settings.seed,
        mean_place=_mean_place(texts.train),
    )
    device = best_device()
    return Task(
        texts=texts,
        test_tokens=test,
        tokenizer=tokenizer,
        network=network,
        train=train_split,
        valid=tokenized_split(valid, tokenizer, max_length=length, seed=_VALID_SEED),
        test=tokenized_split(test, tokenizer, max_length=length, seed=_TEST_SEED),
        max_length=length,
        collate=collate_function(tokenizer, _MULTIPLE),
        sampler=LengthBucketBatchSampler(
            [len(ids) for ids in train_split["input_ids"]],
            settings.batch_size,
            seed=settings.seed,
            batches_per_epoch=settings.steps,
        ),
        device=device,
        precision=best_precision(settings.precision, device),
        started=started,
    )


def _longest(wanted: int, possible: int) -> int:
    """Return the most tokens of a text, such that a rounded batch still fits the encoder."""
    fitting = min(wanted, possible)
    return fitting - fitting % _MULTIPLE if fitting > _MULTIPLE else fitting


def _mean_place(texts: list[Text]) -> float:
    """Return the mean place of all sentences, which is what the targets vary around."""
    places = [place for text in texts for place in range(len(text.sentences))]
    return sum(places) / len(places)
