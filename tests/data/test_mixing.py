"""MixUp and CutMix: what is blended, what the loss sees, and what is drawn."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion import Batch, CutMix, MixUp, Model
from clarion.errors import DataError, InvalidArgumentError, InvalidTypeError


def make_data(count=12):
    torch.manual_seed(0)
    return torch.randn(count, 4), torch.randint(0, 3, (count,))


def make_network(outputs=3):
    torch.manual_seed(1)
    return nn.Linear(4, outputs)


def blend_of(transform, x, y, seed=7):
    torch.manual_seed(seed)
    return transform(Batch((x,), target=y, size=len(x)))


def test_mixup_blends_each_example_with_another():
    x, y = make_data()
    batch = blend_of(MixUp(alpha=1.0), x, y)
    share = batch.mixed.share
    torch.manual_seed(7)
    torch.distributions.Beta(1.0, 1.0).sample()
    order = torch.randperm(12)
    assert 0 < share < 1
    torch.testing.assert_close(batch.args[0], share * x + (1 - share) * x[order])
    assert torch.equal(batch.mixed.second, y[order])
    assert batch.target is y


def test_the_loss_is_that_of_blended_probabilities():
    x, y = make_data()
    network = make_network()
    bare = copy.deepcopy(network)
    batch = blend_of(MixUp(alpha=1.0), x, y)
    hot = [F.one_hot(one, 3).float() for one in (batch.mixed.first, batch.mixed.second)]
    target = batch.mixed.share * hot[0] + (1 - batch.mixed.share) * hot[1]
    loss = F.cross_entropy(bare(batch.args[0]), target)
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.5)
    loss.backward()
    optimizer.step()
    model = Model(
        network, {"optim": "sgd", "lr": 0.5}, "cross_entropy", batch_transform=MixUp(alpha=1.0)
    )
    torch.manual_seed(7)
    assert model.train_on_batch(x, y) == pytest.approx(loss.item())
    torch.testing.assert_close(network.weight, bare.weight)


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_real_values_are_blended_as_they_are(shape):
    x, _ = make_data()
    y = torch.randn(shape)
    batch = blend_of(MixUp(alpha=1.0), x, y)
    target = batch.mixed.share * y + (1 - batch.mixed.share) * batch.mixed.second
    network = make_network(1)
    expected = F.mse_loss(network(batch.args[0]), target.reshape(12, 1)).item()
    model = Model(network, "sgd", "mse", batch_transform=MixUp(alpha=1.0))
    torch.manual_seed(7)
    assert model.train_on_batch(x, y) == pytest.approx(expected)


def test_cutmix_pastes_one_box_and_weighs_by_its_area():
    torch.manual_seed(3)
    x, y = torch.randn(8, 3, 10, 12), torch.randint(0, 3, (8,))
    for seed in range(20):
        batch = blend_of(CutMix(), x, y, seed)
        changed = (batch.args[0] != x).any(0).any(0)
        assert 1 - batch.mixed.share == pytest.approx(changed.float().mean().item(), abs=1e-6)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        if len(rows):
            height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
            assert changed.sum() == height * width
        assert torch.equal(x, x.clone())


def test_only_training_is_transformed_and_metrics_see_the_own_target():
    x, y = make_data()
    seen = []

    def shift(batch):
        seen.append(batch.size)
        batch.args = (batch.args[0] + 100,)
        return batch

    def mean_of_target(y_pred, y_true):
        assert y_true.dtype is torch.int64
        return y_true.float().mean()

    model = Model(make_network(), {"optim": "sgd", "lr": 0.0}, "cross_entropy")
    expected = model.evaluate(x, y, verbose=False)
    shifted = Model(
        make_network(),
        {"optim": "sgd", "lr": 0.0},
        "cross_entropy",
        batch_metrics=[mean_of_target],
        batch_transform=shift,
    )
    history = shifted.fit(x, y, (x, y), batch_size=5, epochs=1, verbose=False)
    assert seen == [5, 5, 2]
    assert history[0]["val_loss"] == pytest.approx(expected)
    assert history[0]["loss"] != pytest.approx(expected)
    assert shifted.evaluate(x, y, verbose=False)[0] == pytest.approx(expected)
    shifted.batch_transform = MixUp(1.0)
    history = shifted.fit(x, y, epochs=1, verbose=False)
    assert history[0]["mean_of_target"] == pytest.approx(y.float().mean().item())


def test_a_seed_repeats_it_and_accumulation_goes_with_it():
    x, y = make_data()

    def weights(batches_per_step):
        model = Model(make_network(), "adam", "cross_entropy", batch_transform=MixUp(0.4))
        torch.manual_seed(5)
        model.fit(x, y, batch_size=4, epochs=2, batches_per_step=batches_per_step, verbose=False)
        return model.network.weight

    assert torch.equal(weights(1), weights(1))
    assert torch.equal(weights(2), weights(2))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("alpha", [0, -1.0])
@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_alpha_is_positive(kind, alpha):
    with pytest.raises(InvalidArgumentError, match=rf"{kind.__name__}\(alpha={alpha}.*above 0"):
        kind(alpha)


def test_what_cannot_be_blended_is_told():
    x, y = make_data()
    with pytest.raises(DataError, match="MixUp blends inputs of real values"):
        blend_of(MixUp(), torch.ones(12, 4, dtype=torch.long), y)
    with pytest.raises(DataError, match=r"CutMix got an input of shape \(12, 4\)"):
        blend_of(CutMix(), x, y)
    with pytest.raises(InvalidTypeError, match="batch_transform is a str; it is a function"):
        Model(make_network(), None, "mse", batch_transform="mixup")
    model = Model(make_network(), "sgd", "cross_entropy", batch_transform=lambda batch: None)
    with pytest.raises(InvalidTypeError, match="batch_transform returned None"):
        model.fit(x, y, epochs=1, verbose=False)
