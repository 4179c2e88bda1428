"""Images with their channels side by side: the same numbers in another order in memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clarion import ClarionError, Experiment, Model

torch.manual_seed(0)
X, Y = torch.randn(24, 3, 8, 8), torch.randint(0, 4, (24,))
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)]


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


class Watch(nn.Module):
    """A network that notes the strides of what it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x):
        self.seen.append(x.stride())
        return self.inner(x)


def model_of(net, **options):
    return Model(net, "adam", "cross_entropy", **options)


def strides(net):
    return [p.stride() for p in net.parameters() if p.ndim == 4]


def test_training_is_that_of_torch_with_weights_and_images_in_this_format():
    own, other = network(), network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(other.parameters(), fused=True)
    for _ in range(2):
        for x, y in BATCHES:
            optimizer.zero_grad()
            F.cross_entropy(other(x.contiguous(memory_format=torch.channels_last)), y).backward()
            optimizer.step()

    model_of(own, channels_last=True).fit(BATCHES, epochs=2, verbose=False)

    assert strides(own) == strides(other)
    for one, two in zip(own.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_numbers_are_those_of_the_ordinary_format_to_rounding():
    nets, predictions = [network(), network()], []
    for net, channels_last in zip(nets, (False, True), strict=True):
        model = model_of(net, channels_last=channels_last)
        model.fit(BATCHES, epochs=3, verbose=False)
        predictions.append(model.predict(X, verbose=False))

    assert strides(nets[0]) != strides(nets[1])
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    assert predictions[0] == pytest.approx(predictions[1], abs=1e-4)


@pytest.mark.parametrize(
    ("dims", "stride"),
    [((4, 3, 5, 6), (90, 1, 18, 3)), ((4, 3, 2, 5, 6), (180, 1, 90, 18, 3)), ((4, 3), (3, 1))],
)
def test_images_and_volumes_are_laid_out_and_nothing_else(dims, stride):
    net = Watch(nn.Flatten())
    x = torch.arange(float(torch.Size(dims).numel())).reshape(dims)

    out = Model(net, None, channels_last=True).predict(x, batch_size=4, verbose=False)

    assert net.seen == [stride]
    assert torch.equal(torch.from_numpy(out), x.flatten(1))


def test_targets_stay_as_they_are():
    seen = []

    def loss(y_pred, y_true):
        seen.append(y_true.stride())
        return F.mse_loss(y_pred, y_true)

    Model(nn.Conv2d(3, 3, 1), None, loss, channels_last=True).evaluate(X, X, verbose=False)

    assert seen == [X.stride()]


def test_volumes_have_weights_in_the_format_of_volumes():
    net = nn.Conv3d(2, 3, 2)
    before = net.weight.clone()

    Model(net, None, channels_last=True)

    assert net.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(net.weight, before)


def test_a_lazy_layer_follows_when_it_knows_its_shape():
    net = nn.Sequential(nn.LazyConv2d(6, 3), nn.Flatten(), nn.LazyLinear(4))

    model_of(net, channels_last=True).fit(BATCHES, epochs=1, verbose=False)

    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_go_from_one_format_to_the_other_through_files(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    first, second = network(), network()
    model = model_of(first, channels_last=True)
    model.fit(BATCHES, epochs=1, verbose=False)
    model.save_weights(path)

    model_of(second).load_weights(path)

    assert strides(second) == strides(network())
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_training_goes_on_from_a_checkpoint_with_the_state_in_the_same_format(tmp_path):
    def trained(directory, *stops):
        for epochs in stops:
            net = network()
            experiment = Experiment(
                directory, net, optimizer="adam", task="classif", channels_last=True
            )
            experiment.train(BATCHES, BATCHES, epochs=epochs, verbose=False)
        return net, experiment.model.optimizer

    (whole, _), (resumed, optimizer) = trained(tmp_path / "a", 3), trained(tmp_path / "b", 1, 3)

    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
        assert optimizer.state[two]["exp_avg"].stride() == two.stride()


def test_anything_but_a_switch_is_refused():
    with pytest.raises(ClarionError, match="channels_last is a str; it is True or False"):
        Model(network(), None, channels_last="yes")


def test_a_network_without_weights_over_images_is_told():
    with pytest.warns(UserWarning, match="channels_last=True does nothing for this network"):
        model_of(nn.Linear(4, 2), channels_last=True)
    model_of(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), channels_last=True)
    model_of(nn.Sequential(nn.Conv3d(1, 2, 1)), channels_last=True)
