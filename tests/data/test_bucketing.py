"""Bucketed batches: exact passes, little padding, orders that a seed repeats."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from clarion.data.bucketing import LengthBucketBatchSampler
from clarion.errors import DataError, InvalidArgumentError, InvalidTypeError
from clarion.model import Model


def random_lengths(n: int = 203, seed: int = 0) -> list[int]:
    return torch.randint(5, 200, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


@pytest.mark.parametrize("window", [1, 3, 50])
def test_a_pass_holds_every_example_once_in_batches_of_the_given_size(window: int) -> None:
    sampler = LengthBucketBatchSampler(random_lengths(), 16, window=window, seed=1)
    batches = list(sampler)
    assert sorted(flat(batches)) == list(range(203))
    assert len(batches) == len(sampler) == 13
    assert sorted(map(len, batches))[:2] == [11, 16]


def test_batches_are_padded_much_less_than_random_ones() -> None:
    lengths = random_lengths(1600)
    bucketed = padded(lengths, list(LengthBucketBatchSampler(lengths, 16, seed=0)))
    plain = padded(lengths, list(LengthBucketBatchSampler(lengths, 16, window=1, seed=0)))
    assert bucketed < 1.05 * sum(lengths)
    assert plain > 1.6 * sum(lengths)


def test_batches_of_a_pass_are_not_in_the_order_of_their_lengths() -> None:
    lengths = random_lengths(1600)
    longest = torch.tensor(
        [max(lengths[i] for i in b) for b in LengthBucketBatchSampler(lengths, 16, seed=0)]
    ).float()
    position = torch.arange(len(longest)).float()
    correlation = torch.corrcoef(torch.stack([longest, position]))[0, 1]
    assert abs(correlation) < 0.25


def test_neighbours_change_from_pass_to_pass() -> None:
    sampler = LengthBucketBatchSampler(random_lengths(1600), 16, window=10, seed=0)
    first = {frozenset(batch) for batch in sampler}
    second = {frozenset(batch) for batch in sampler}
    assert not first & second


def test_the_same_seed_gives_the_same_passes() -> None:
    def two_passes(seed: int) -> list[list[int]]:
        sampler = LengthBucketBatchSampler(random_lengths(), 16, seed=seed)
        return [*sampler, *sampler]

    assert two_passes(3) == two_passes(3)
    assert two_passes(3) != two_passes(4)


def test_seeds_do_not_share_passes() -> None:
    one = LengthBucketBatchSampler(random_lengths(), 16, seed=1)
    two = LengthBucketBatchSampler(random_lengths(), 16, seed=2)
    one.set_epoch(2)
    assert list(one) != list(two)


def test_without_a_seed_the_order_follows_the_global_generator_as_in_random_sampler() -> None:
    sampler = LengthBucketBatchSampler(random_lengths(), 16)
    torch.manual_seed(5)
    first = list(sampler)
    after_ours = torch.get_rng_state()
    torch.manual_seed(5)
    assert list(LengthBucketBatchSampler(random_lengths(), 16)) == first
    torch.manual_seed(5)
    list(RandomSampler(range(203)))
    assert torch.equal(torch.get_rng_state(), after_ours)


@pytest.mark.parametrize("per_epoch", [1, 4, 13, 20, 40])
def test_short_and_long_epochs_walk_through_the_same_passes(per_epoch: int) -> None:
    lengths = random_lengths()
    whole = LengthBucketBatchSampler(lengths, 16, seed=7)
    passes = [batch for _ in range(10) for batch in whole]
    cut = LengthBucketBatchSampler(lengths, 16, seed=7, batches_per_epoch=per_epoch)
    assert len(cut) == per_epoch
    epochs = [list(cut) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [per_epoch] * 3
    assert [batch for epoch in epochs for batch in epoch] == passes[: 3 * per_epoch]


def test_set_epoch_resumes_in_a_new_process() -> None:
    lengths = random_lengths()
    never_stopped = LengthBucketBatchSampler(lengths, 16, seed=7, batches_per_epoch=5)
    epochs = [list(never_stopped) for _ in range(6)]
    resumed = LengthBucketBatchSampler(lengths, 16, seed=7, batches_per_epoch=5)
    resumed.set_epoch(4)
    assert [list(resumed) for _ in range(3)] == epochs[3:]


def test_an_epoch_that_is_left_early_does_not_shift_the_next() -> None:
    left = LengthBucketBatchSampler(random_lengths(), 16, seed=7, batches_per_epoch=5)
    whole = LengthBucketBatchSampler(random_lengths(), 16, seed=7, batches_per_epoch=5)
    next(iter(left))
    list(whole)
    assert list(left) == list(whole)


def test_in_order_of_length_without_shuffling() -> None:
    lengths = random_lengths()
    order = flat(list(LengthBucketBatchSampler(lengths, 16, shuffle=False)))
    assert [lengths[i] for i in order] == sorted(lengths)


@pytest.mark.parametrize("shuffle", [True, False])
def test_drop_last_gives_full_batches_only(shuffle: bool) -> None:
    sampler = LengthBucketBatchSampler(
        random_lengths(), 16, drop_last=True, shuffle=shuffle, seed=0
    )
    batches = list(sampler)
    assert len(batches) == len(sampler) == 12
    assert {len(batch) for batch in batches} == {16}


def test_drop_last_leaves_out_examples_of_any_length() -> None:
    torch.manual_seed(0)
    lengths = list(range(40))
    left_out = [
        set(range(40)) - set(flat(list(LengthBucketBatchSampler(lengths, 16, drop_last=True))))
        for _ in range(20)
    ]
    assert min(min(left) for left in left_out) < 10
    assert max(max(left) for left in left_out) >= 30


def test_a_loader_takes_it_as_batch_sampler() -> None:
    data = [torch.tensor(i) for i in range(203)]
    loader = DataLoader(data, batch_sampler=LengthBucketBatchSampler(random_lengths(), 16, seed=2))
    expected = list(LengthBucketBatchSampler(random_lengths(), 16, seed=2))
    assert [batch.tolist() for batch in loader] == expected


def test_fit_dataset_takes_it_for_training_and_reads_the_validation_data_in_order() -> None:
    train = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20.0)[:, None])
    valid = TensorDataset(torch.zeros(50, 1), torch.arange(50.0)[:, None])
    seen: list[list[float]] = []

    def loss(y_pred: torch.Tensor, y_true: torch.Tensor) -> torch.Tensor:
        seen.append(y_true.flatten().tolist())
        return y_pred.sum() * 0

    sampler = LengthBucketBatchSampler(range(20), 4, seed=2, batches_per_epoch=3)
    model = Model(nn.Linear(1, 1), "sgd", loss)
    model.fit_dataset(
        train, valid, epochs=1, dataloader_kwargs={"batch_sampler": sampler}, verbose=False
    )
    sampler.set_epoch(1)
    assert seen[:3] == list(sampler)
    assert seen[3:] == [list(range(32)), list(range(32, 50))]


def test_lengths_may_be_a_tensor() -> None:
    lengths = random_lengths()
    from_tensor = LengthBucketBatchSampler(torch.tensor(lengths), 16, seed=2)
    assert list(from_tensor) == list(LengthBucketBatchSampler(lengths, 16, seed=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
        ({"window": 0}, "window is 0"),
        ({"batches_per_epoch": -1, "seed": 1}, "batches_per_epoch is -1"),
        ({"batches_per_epoch": 5}, "batches_per_epoch needs a seed"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        LengthBucketBatchSampler([1, 2, 3], **{"batch_size": 2, **options})


@pytest.mark.parametrize(("lengths", "drop_last"), [([], False), ([1, 2, 3], True)])
def test_no_batch_at_all(lengths: list[int], drop_last: bool) -> None:
    with pytest.raises(DataError, match=r"gives no batch of 4"):
        LengthBucketBatchSampler(lengths, 4, drop_last=drop_last)


def test_epochs_count_from_one() -> None:
    with pytest.raises(InvalidArgumentError, match="epoch is 0"):
        LengthBucketBatchSampler([1, 2], 1).set_epoch(0)


@pytest.mark.parametrize("texts", [[[1, 2], [3, 4]], [[1, 2, 3], [4]], ["one", "two"], [None]])
def test_what_is_no_length_is_told(texts: list[object]) -> None:
    with pytest.raises(
        InvalidTypeError, match=r"^lengths holds .* as in \[len\(text\) for text in"
    ):
        LengthBucketBatchSampler(texts, batch_size=2)
