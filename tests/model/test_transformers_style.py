"""Networks called by keywords that return a mapping, with their own loss or with another."""

from collections import OrderedDict, UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clarion import Model
from clarion.data.padding import padding_of

torch.manual_seed(0)
IDS = torch.randint(0, 10, (6, 4))
MASK = torch.ones(6, 4, dtype=torch.long)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


class Output(OrderedDict):
    """A mapping with attributes, as transformers' ``ModelOutput`` is one."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)

    def to_tuple(self):
        return tuple(self.values())


class Classifier(nn.Module):
    """The form of transformers' models for sequence classification."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.head = nn.Embedding(10, 3), nn.Linear(3, 2)
        self.calls = []

    def forward(self, input_ids, attention_mask=None, labels=None):
        self.calls.append((attention_mask is not None, labels is not None))
        logits = self.head(self.embedding(input_ids).mean(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return Output(loss=loss, logits=logits) if loss is not None else Output(logits=logits)


def batch(kind=dict, key="labels"):
    return kind({"input_ids": IDS, "attention_mask": MASK, key: LABELS})


def losses_by_hand(epochs=2):
    net = Classifier()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = net(IDS, MASK, LABELS)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("key", ["labels", "label"])
@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_training_with_the_networks_loss_and_with_another(loss, kind, key):
    if loss is None and key == "label":
        pytest.skip("the network's parameter is called labels")
    net = Classifier()
    model = Model(net, "sgd", loss, batch_metrics=["acc"])

    history = model.fit_generator([batch(kind, key)], [batch(kind, key)], epochs=2, verbose=False)

    assert [logs["loss"] for logs in history] == pytest.approx(losses_by_hand())
    assert set(net.calls) == {(True, loss is None)}
    accuracy = (net(IDS).logits.argmax(1) == LABELS).float().mean().item() * 100
    assert history[-1]["val_acc"] == pytest.approx(accuracy)


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_logits_are_what_is_predicted(loss):
    net = Classifier()
    model = Model(net, None, loss)

    pred = model.predict_generator([batch()], verbose=False)
    assert type(pred) is np.ndarray
    assert pred == pytest.approx(net(IDS).logits.detach().numpy())
    pred, true = model.predict_generator([batch()], return_ground_truth=True, verbose=False)
    assert true.tolist() == LABELS.tolist()
    without = {key: value for key, value in batch().items() if key != "labels"}
    assert model.predict_on_batch(without) == pytest.approx(pred)


def test_arrays_by_key_are_sliced_into_such_batches():
    model = Model(Classifier(), "sgd", None)

    history = model.fit(batch(), batch_size=6, epochs=2, verbose=False)

    assert [logs["loss"] for logs in history] == pytest.approx(losses_by_hand())
    assert model.predict(batch(), verbose=False).shape == (6, 2)
    assert model.evaluate(batch(), verbose=False) == pytest.approx(losses_by_hand(3)[2])


def test_the_loss_over_a_pass_weighs_targets_that_count():
    labels = LABELS.clone()
    labels[:2] = -100
    batches = [
        {"input_ids": IDS[:3], "labels": labels[:3]},
        {"input_ids": IDS[3:], "labels": labels[3:]},
    ]
    net = Classifier()

    loss = Model(net, None, None).evaluate_generator(batches, verbose=False)

    assert loss == pytest.approx(F.cross_entropy(net(IDS).logits, labels).item())


def test_single_batches():
    model = Model(Classifier(), "sgd", "cross_entropy")
    x = {"input_ids": IDS, "attention_mask": MASK}

    assert model.evaluate_on_batch(x, LABELS) == pytest.approx(losses_by_hand()[0])
    assert [model.train_on_batch(x, LABELS) for _ in range(2)] == pytest.approx(losses_by_hand())


def test_another_part_can_be_chosen():
    class WithHidden(Classifier):
        def forward(self, input_ids, attention_mask=None, labels=None):
            output = super().forward(input_ids, attention_mask, labels)
            output["hidden"] = output["logits"] * 2
            return output

    net = WithHidden()
    model = Model(net, None, None, prediction_key="hidden")

    assert model.predict_on_batch({"input_ids": IDS}) == pytest.approx(
        2 * net(IDS)["logits"].detach().numpy()
    )


def test_what_the_network_does_not_take_is_reported():
    raw = {**batch(), "idx": torch.arange(6)}

    with pytest.warns(UserWarning, match='hold "idx", which Classifier.forward does not take'):
        Model(Classifier(), "sgd", None).fit_generator([raw], epochs=2, verbose=False)


@pytest.mark.parametrize(
    ("raw", "loss", "message"),
    [
        ({"input_ids": IDS}, "cross_entropy", 'none of them is the target: .*"labels"'),
        ({"input_ids": IDS, "y": LABELS}, "cross_entropy", r'target_keys=\("y",\)'),
        ({"inputs": IDS, "labels": LABELS}, None, 'did you mean "input_ids"'),
        ({"input_ids": IDS}, None, "carries no loss of its own|called without a target"),
    ],
)
def test_batches_that_do_not_fit(raw, loss, message):
    with pytest.raises(ValueError, match=message):
        Model(Classifier(), "sgd", loss).fit_generator([raw], epochs=1, verbose=False)


def test_a_network_whose_own_loss_is_none():
    class ReturnsNone(Classifier):
        def forward(self, input_ids, attention_mask=None, labels=None):
            return Output(loss=None, logits=super().forward(input_ids)["logits"])

    with pytest.raises(ValueError, match=r'called without a target.*usually "labels"'):
        Model(ReturnsNone(), "sgd", None).fit_generator([batch()], epochs=1, verbose=False)


def test_a_missing_input_names_what_was_there():
    class Strict(Classifier):
        def forward(self, input_ids, attention_mask, labels=None):
            return super().forward(input_ids, attention_mask, labels)

    with pytest.raises(TypeError, match="attention_mask") as caught:
        Model(Strict(), "sgd", None).fit_generator(
            [{"input_ids": IDS, "labels": LABELS}], epochs=1, verbose=False
        )
    assert caught.value.__notes__[0] == (
        "This happened in the network, on train batch 1, called with: input_ids=(6, 4) int64, "
        "labels=(6,) int64."
    )


def test_a_network_that_computes_its_loss_from_inputs_alone():
    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return Output(loss=F.mse_loss(self.layer(x), x), logits=self.layer(x))

    net, x = Autoencoder(), torch.randn(6, 4)
    expected = net(x)["loss"].item()

    (logs,) = Model(net, "sgd", None).fit(x, batch_size=6, epochs=1, verbose=False)

    assert logs["loss"] == pytest.approx(expected)


class Wrapper(nn.Module):
    """A network around another one, as PEFT puts it where nobody tells it the task."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def get_base_model(self):
        return self.network

    def forward(self, *args, **kwargs):
        return self.get_base_model()(*args, **kwargs)


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_a_wrapper_takes_the_keys_of_what_is_inside(loss):
    batches = [{"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}]
    found, expected = (
        Model(network, None, loss).evaluate_generator(batches, verbose=False)
        for network in (Wrapper(Classifier()), Classifier())
    )
    assert found == expected


def test_texts_for_a_wrapper_get_a_mask_of_what_is_no_padding():
    network = Classifier()
    network.config = type("Config", (), {"pad_token_id": 0})()
    wrapper = Wrapper(network)
    wrapper.config = network.config
    rows = [{"input_ids": [1, 2, 3], "labels": 0}, {"input_ids": [4], "labels": 1}]
    batch = padding_of(wrapper, ["labels"])(rows)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
