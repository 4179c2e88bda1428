from unittest.mock import MagicMock

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from clarion.data.bucketing import LengthBucketBatchSampler
from clarion.data.order import LoaderState

DATASET = TensorDataset(torch.arange(12))


def order(loader):
    return torch.cat([batch[0] for batch in loader]).tolist()


def test_a_loaders_generator_goes_on_where_it_was():
    loader = DataLoader(DATASET, 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    order(loader)
    state = LoaderState([loader]).state_dict()
    second = order(loader)
    other = DataLoader(DATASET, 4, shuffle=True, generator=torch.Generator().manual_seed(9))
    LoaderState([other]).load_state_dict(state)
    assert order(other) == second


def test_generators_of_samplers_and_arguments_are_found():
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    sampler = RandomSampler(DATASET, generator=generators[0])
    sources = [
        DataLoader(DATASET, sampler=sampler),
        {"batch_size": 3, "generator": generators[1]},
        {"sampler": RandomSampler(DATASET, generator=generators[2])},
        None,
        [1, 2],
    ]
    states = LoaderState(sources).state_dict()["generators"]
    assert len(states) == 3
    for state, generator in zip(states, generators, strict=True):
        assert torch.equal(state, generator.get_state())


def test_a_sampler_that_counts_epochs_goes_on_counting():
    def loader():
        sampler = LengthBucketBatchSampler([1, 2, 3, 4] * 3, batch_size=2, window=1, seed=3)
        return DataLoader(DATASET, batch_sampler=sampler)

    first = loader()
    order(first)
    state = LoaderState([first]).state_dict()
    assert state == {"generators": [], "epochs": [2]}
    second = order(first)
    other = loader()
    assert order(loader()) != second
    LoaderState([other]).load_state_dict(state)
    assert order(other) == second


def test_mocks_and_generators_have_no_state():
    sources = [MagicMock(), (x for x in ()), None]
    assert LoaderState(sources).state_dict() == {"generators": [], "epochs": []}


def test_the_generator_of_a_sampler_inside_a_batch_sampler_is_found():
    generator = torch.Generator()
    batches = BatchSampler(RandomSampler(DATASET, generator=generator), 4, False)
    (state,) = LoaderState([DataLoader(DATASET, batch_sampler=batches)]).state_dict()["generators"]
    assert torch.equal(state, generator.get_state())
