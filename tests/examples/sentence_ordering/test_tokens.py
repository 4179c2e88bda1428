"""Texts as tokens: markers, places, truncation, padding."""

from typing import Any

import pytest
import torch
from ordering.corpus import Text
from ordering.tokens import collate_function, mark, shuffled, tokenize, tokenized_split

from clarion.errors import InvalidArgumentError

WORDS = ["he", "woke", "ate", "left", "up", "early", "."]


def tokenizer_of(cls: str | None, sep: str | None = "[SEP]") -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [token for token in ("[PAD]", "[UNK]", cls, sep) if token]
    vocab = {word: index for index, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options = {"cls_token": cls, "sep_token": sep, "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in options.items() if token}
    )


TEXTS = [
    Text("a", ("He woke up early.", "He ate.", "He left.")),
    Text("b", ("[CLS] He ate.", "He woke [CLS] up.")),
]


@pytest.mark.parametrize("cls", ["[CLS]", "<s>"])
def test_each_sentence_starts_with_the_tokenizers_own_marker_and_has_no_other(cls: str) -> None:
    tokenizer = tokenizer_of(cls)
    for text, tokens in zip(TEXTS, tokenize(TEXTS, tokenizer, 40), strict=True):
        assert len(tokens) == len(text.sentences)
        for sentence in tokens:
            assert sentence[0] == tokenizer.cls_token_id
            assert sentence.count(tokenizer.cls_token_id) == 1
            assert tokenizer.unk_token_id not in sentence


def test_mark_rewrites_what_was_written_for_bert() -> None:
    assert mark("[CLS] He woke up.", "<s>") == "<s> He woke up."
    assert mark("He <s> woke [CLS] up.", "<s>") == "<s> He woke up."


def test_long_sentences_are_cut() -> None:
    tokens = tokenize(TEXTS[:1], tokenizer_of("[CLS]"), 3)[0]
    assert [len(sentence) for sentence in tokens] == [3, 3, 3]


def test_a_tokenizer_without_cls_token() -> None:
    with pytest.raises(InvalidArgumentError, match="has no cls token"):
        tokenize(TEXTS, tokenizer_of(None), 40)


def test_shuffled_puts_the_true_place_at_each_marker() -> None:
    example = shuffled([[9, 1], [9, 2, 2], [9, 3]], [2, 0, 1], 9, 8, 512)
    assert example["input_ids"] == [9, 3, 9, 1, 9, 2, 2, 8]
    assert example["labels"] == [2, -100, 0, -100, 1, -100, -100, -100]


@pytest.mark.parametrize(
    ("max_length", "ids", "labels"),
    [
        (7, [9, 3, 9, 1, 9, 2, 8], [2, -100, 0, -100, 1, -100, -100]),
        (6, [9, 3, 9, 1, 9, 8], [2, -100, 0, -100, 1, -100]),
        (5, [9, 3, 9, 1, 8], [2, -100, 0, -100, -100]),
        (3, [9, 3, 8], [2, -100, -100]),
    ],
)
def test_truncation_leaves_as_many_places_as_markers(
    max_length: int, ids: list[int], labels: list[int]
) -> None:
    example = shuffled([[9, 1], [9, 2, 2], [9, 3]], [2, 0, 1], 9, 8, max_length)
    assert example == {"input_ids": ids, "labels": labels}


def test_a_tokenizer_without_end() -> None:
    assert shuffled([[9, 1], [9, 2]], [1, 0], 9, None, 512)["input_ids"] == [9, 2, 9, 1]


def split_of(num_examples: int | None, seed: int = 0, num_texts: int = 20) -> Any:
    texts = [[[2, 4 + i % 7, 4 + j] for j in range(3 + i % 4)] for i in range(num_texts)]
    return tokenized_split(
        texts, tokenizer_of("[CLS]"), max_length=512, seed=seed, num_examples=num_examples
    )


def unshuffled(row: dict[str, list[int]]) -> tuple[int, ...]:
    ids = [token for token in row["input_ids"] if token != 3]
    order = [place for place in row["labels"] if place != -100]
    sentences = dict(
        zip(order, (tuple(ids[i : i + 3]) for i in range(0, len(ids), 3)), strict=True)
    )
    return tuple(token for place in sorted(sentences) for token in sentences[place])


def test_a_split_for_evaluation_holds_every_text_once_by_length() -> None:
    split = split_of(None)
    lengths = [len(row["input_ids"]) for row in split]
    assert len(split) == 20
    assert lengths == sorted(lengths)
    assert len({unshuffled(row) for row in split}) == 20


def test_a_split_for_training_holds_every_text_once_before_it_repeats() -> None:
    split = split_of(50)
    texts = [unshuffled(row) for row in split]
    assert len(split) == 50
    assert len(set(texts[:20])) == len(set(texts[20:40])) == 20
    assert len(set(texts[40:])) == 10


def test_texts_come_again_in_another_order() -> None:
    rows = [tuple(row["input_ids"]) for row in split_of(40)]
    assert len(set(rows)) > 30


def test_the_seed_decides() -> None:
    assert split_of(30).to_list() == split_of(30).to_list()
    assert split_of(30).to_list() != split_of(30, seed=1).to_list()


def test_batches_are_padded_to_a_multiple() -> None:
    collate = collate_function(tokenizer_of("[CLS]"), 16)
    batch = collate([{"input_ids": [2, 5, 3], "labels": [0, -100, -100]},
                     {"input_ids": [2] * 17, "labels": [0] * 17}])  # fmt: skip
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert {tuple(tensor.shape) for tensor in batch.values()} == {(2, 32)}
    assert batch["labels"][0, 3:].eq(-100).all()
    assert batch["attention_mask"].sum(1).tolist() == [3, 17]
    assert batch["input_ids"][0, 3:].eq(0).all()
    assert batch["labels"].dtype == torch.int64
