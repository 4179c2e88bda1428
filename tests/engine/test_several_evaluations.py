"""Updates that evaluate the loss several times a step: LBFGS and SAM."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clarion import Callback, Model, NonFiniteError


def make_network():
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def make_batches(sizes=(5, 3, 4, 4)):
    torch.manual_seed(7)
    return [(torch.randn(n, 4, dtype=torch.float64), torch.randint(0, 3, (n,))) for n in sizes]


def joined(batches, k):
    groups = [batches[i : i + k] for i in range(0, len(batches), k)]
    return [tuple(torch.cat(parts) for parts in zip(*group, strict=True)) for group in groups]


def assert_close(first, second):
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("k", [1, 3])
def test_lbfgs_is_a_bare_loop(line_search, k):
    options = {"lr": 0.3, "max_iter": 4, "line_search_fn": line_search}
    ours, theirs = make_network(), make_network()
    model = Model(ours, {"optim": "lbfgs", **options}, "cross_entropy")
    model.fit_generator(make_batches(), epochs=2, batches_per_step=k, verbose=False)
    optimizer = torch.optim.LBFGS(theirs.parameters(), **options)
    for _ in range(2):
        for x, y in joined(make_batches(), k):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = F.cross_entropy(theirs(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    if k == 1:
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert_close(ours, theirs)


def test_the_first_evaluation_of_lbfgs_is_that_of_the_step():
    network, calls = make_network(), []
    network.register_forward_hook(lambda *args: calls.append(1))
    model = Model(network, {"optim": "lbfgs", "max_iter": 1}, "cross_entropy")
    model.fit_generator(make_batches(), epochs=1, verbose=False)
    assert len(calls) == 4


def test_lbfgs_that_is_ready_trains_too():
    network = make_network()
    optimizer = torch.optim.LBFGS(network.parameters(), line_search_fn="strong_wolfe")
    model = Model(network, optimizer, "cross_entropy")
    history = model.fit_generator(make_batches((30,)), epochs=3, verbose=False)
    assert history[-1]["loss"] < history[0]["loss"] / 2


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("k", [1, 2])
def test_sam_is_its_algorithm(optimizer, k):
    ours, theirs = make_network(), make_network()
    options = {"optim": optimizer, "lr": 0.05, "sharpness": 0.1, "clip_norm": 0.3}
    model = Model(ours, options, "cross_entropy")
    model.fit_generator(make_batches(), epochs=2, batches_per_step=k, verbose=False)
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    update = rule(theirs.parameters(), lr=0.05)
    for _ in range(2):
        for x, y in joined(make_batches(), k):
            parameters = list(theirs.parameters())
            gradients = torch.autograd.grad(F.cross_entropy(theirs(x), y), parameters)
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            before = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p, gradient in zip(parameters, gradients, strict=True):
                    p.add_(0.1 * gradient / norm)
            update.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            with torch.no_grad():
                for p, value in zip(parameters, before, strict=True):
                    p.copy_(value)
            nn.utils.clip_grad_norm_(parameters, 0.3)
            update.step()
    assert_close(ours, theirs)


class Calls(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, batch_number, logs):
        self.losses.append(logs["loss"])


def test_metrics_logs_and_batch_statistics_count_each_batch_once():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    batches = make_batches()
    options = {"optim": "sgd", "lr": 1e-12, "sharpness": 0.05}
    model = Model(network, options, "cross_entropy", batch_metrics=["acc"], epoch_metrics=["f1"])
    calls = Calls()
    history = model.fit_generator(batches, epochs=1, verbose=False, callbacks=[calls])
    assert network[0].num_batches_tracked == 4
    sizes = [len(y) for _, y in batches]
    mean = sum(n * loss for n, loss in zip(sizes, calls.losses, strict=True)) / sum(sizes)
    assert history[0]["loss"] == pytest.approx(mean)
    running = nn.BatchNorm1d(4).double()
    for x, _ in batches:
        running(x)
    torch.testing.assert_close(network[0].running_mean, running.running_mean)


@pytest.mark.parametrize("options", [{"optim": "lbfgs"}, {"optim": "sgd", "sharpness": 0.1}])
def test_fp16_scales_once_a_step(options):
    model = Model(make_network().float(), options, "cross_entropy", precision="fp16-mixed")
    batches = [(x.float(), y) for x, y in make_batches()]
    with pytest.raises(ValueError, match=r'precision="fp16-mixed" scales the loss once'):
        model.fit_generator(batches, epochs=1, verbose=False)


def steep(y_pred, y_true):
    """A loss that goes down to where it has no value."""
    return (2.0 + y_pred - y_true).sqrt().mean()


def search_too_far(policy, **options):
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    x = torch.ones(8, 2)
    model = Model(network, {"optim": "lbfgs", "lr": 1.0, **options}, steep, on_nonfinite=policy)
    return model, before, (x, torch.zeros(8, 1))


def test_a_search_that_ends_in_no_numbers_stops_the_training():
    model, before, data = search_too_far("stop")

    with pytest.raises(
        NonFiniteError, match="evaluation 3 of the step gave the loss nan"
    ) as caught:
        model.fit(*data, epochs=1, verbose=False)

    assert "LBFGS ended in weights that are not finite" in str(caught.value)
    assert "This was optimizer step 1, in epoch 1." in str(caught.value)
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_search_that_ends_in_no_numbers_is_left_out():
    model, before, data = search_too_far("skip")

    with pytest.warns(UserWarning, match="1 optimizer step left out"):
        model.fit(*data, epochs=1, verbose=False)

    assert model.progress.skipped == 1
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, before[name])
    model.optimizer.param_groups[0].update(lr=0.01, max_iter=2)
    history = model.fit(*data, epochs=2, verbose=False)  # its memory begins anew
    assert history[1]["loss"] < history[0]["loss"]


def test_a_search_that_nobody_watches_goes_on():
    model, _, data = search_too_far("ignore")

    model.fit(*data, epochs=1, verbose=False)

    assert not torch.isfinite(model.network.weight).all()
