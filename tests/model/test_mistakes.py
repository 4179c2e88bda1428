"""The commonest mistakes: each gets one clear message with what was got and one remedy."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clarion import (
    Callback,
    ClarionError,
    DataError,
    DelayCallback,
    LRSchedulerCheckpoint,
    Metric,
    Model,
    Optimization,
    StepError,
    StepLR,
    TensorDataset,
)

torch.manual_seed(0)
X = torch.randn(20, 4)
LABELS = torch.arange(20) % 3
VALUES = torch.randn(20, 1)


class Returns(nn.Module):
    """A network that returns what it is told to make of its output."""

    def __init__(self, make, outputs=3):
        super().__init__()
        self.layer, self.make = nn.Linear(4, outputs), make

    def forward(self, x):
        return self.make(self.layer(x))


def fit(y, loss="cross_entropy", net=None, x=X, **options):
    model = Model(net or nn.Linear(4, 3), "sgd", loss, **options)
    return model.fit(x, y, epochs=1, batch_size=20, verbose=False)


def bert(**columns):
    """Train a network of transformers on columns of 20 rows."""
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    config = transformers.BertConfig(
        vocab_size=9, num_hidden_layers=1, max_position_embeddings=8, **size
    )
    columns = {"input_ids": [[1, 2]] * 20, "labels": [0, 1] * 10, **columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    model = Model(transformers.BertForSequenceClassification(config), "sgd", None)
    return model.fit_dataset(rows, epochs=1, verbose=False)


def message_of(error):
    """Check what every message has to keep to, and return it."""
    message = str(error)
    lines = [line for part in message.split("\n") for line in re.findall(r".{1,100}", part)]
    assert len(lines) <= 6, message
    assert message.endswith((".", "?", '"')), message
    return message


def check(match, act, kind=ClarionError):
    with pytest.raises(ClarionError) as caught:
        act()
    assert isinstance(caught.value, kind)
    message = message_of(caught.value)
    assert re.search(match, message, re.DOTALL), message


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "act"),
    [
        ("x has 20, y has 10", lambda: fit(LABELS[:10])),
        (
            r"x\[0\] has 20, x\[1\] has 19",
            lambda: fit(LABELS, x=[X, X[1:]]),
        ),
        (r"x and y hold no examples \(length 0\)", lambda: fit(LABELS[:0], x=X[:0])),
        (r"x\[0\] has 4, y has 20\..* x is a list, of 20 inputs: .* np\.stack\(x\)",
         lambda: fit(LABELS, x=list(X.numpy()))),
        ("There is no array in x and y", lambda: fit([], x=[])),
        (r"one Tensor of shape \(20, 4\), without a target\. Pass y", lambda: fit(None)),
        ("y is an int; pass an ndarray", lambda: fit(3)),
        (r"y is of shape \(\), which has no examples", lambda: fit(torch.tensor(3))),
        ("y is an ndarray of dtype <U1, which is no number", lambda: fit(np.array(["a"] * 20))),
        (
            'x is a DataFrame whose columns "city" hold no numbers.*Encode',
            lambda: fit(LABELS, x=pd.DataFrame({"age": [1.0] * 20, "city": ["Rome"] * 20})),
        ),
        (r"x is a masked array in which 2 values are masked.*Pass x\.filled\(0\)",
         lambda: fit(LABELS, x=np.ma.array(X.numpy(), mask=[[0, 0, 0, 1]] * 2 + [[0] * 4] * 18))),
        (r'x is the name of a file\. Pass .* np\.load\("a\.npy", mmap_mode="r"\)',
         lambda: fit(LABELS, x="a.npy")),
        ("list of rows of different lengths.*Pad the rows", lambda: fit([0, 1], x=[[1.0], [2, 3]])),
        ("x is a str; pass arrays", lambda: Model(nn.Linear(4, 3), "sgd", "mse").predict("a")),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(match, act):
    check(match, act, ValueError)


def test_validation_data_is_named():
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")

    check(
        "x of validation_data has 20, y of validation_data has 10",
        lambda: model.fit(X, LABELS, (X, LABELS[:10]), epochs=1, verbose=False),
        AssertionError,
    )


@pytest.mark.parametrize(
    ("match", "batches"),
    [
        ("The list of batches is empty", []),
        ('Batch 1 of the train loader in epoch 1 is a dict with keys "image", "digit"; clarion',
         [{"image": X, "digit": LABELS}]),
        (r'none of them is the target: .*target_keys=\("digit",\)',
         [{"input": X, "digit": LABELS}]),
        ('none of which is a parameter of Linear.forward .*did you mean "input"',
         [{"inputs": X, "labels": LABELS}]),
        ("Batch 1 .* is a tuple of 4; clarion reads", [(X, LABELS, LABELS, X)]),
        ("train_generator is a Tensor, which does not give batches.*arrays go to fit", X),
        ("train_generator is a TensorDataset, which cannot .*fit_dataset",
         TensorDataset(X, LABELS)),
        ("train_generator is an int, which cannot be iterated over", 3),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_used(match, batches):
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")
    check(match, lambda: model.fit_generator(batches, epochs=1, verbose=False), ValueError)


def test_a_later_batch_is_named():
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")
    batches = [(X, LABELS), (X, LABELS), X]

    check(
        "Batch 3 of the train loader in epoch 1 is one Tensor",
        lambda: model.fit_generator(batches, epochs=1, verbose=False),
    )
    check(
        "Batch 3 of the test loader is one Tensor",
        lambda: model.evaluate_generator(batches, verbose=False),
    )


# --- targets against predictions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "act"),
    [
        (r"The loss failed on train batch 1: .*\(20, 3\).*\(20,\) float32.*y\.long\(\).*\"mse\"",
         lambda: fit(LABELS.float())),
        (r"\(20, 1\) float32, .*y\.long\(\)", lambda: fit(VALUES)),
        (r"y\.argmax\(1\) for one-hot targets", lambda: fit(F.one_hot(LABELS, 3))),
        (r"y_pred has shape \(20, 3\) and y_true \(20, 1\).*element by element.*reshape",
         lambda: fit(VALUES, "mse")),
        (r"y_pred has shape \(20, 1\) and y_true \(20, 3\)",
         lambda: fit(torch.randn(20, 3), "mse", nn.Linear(4, 1))),
        (r"classes in dimension 1.*transpose",
         lambda: fit(torch.zeros(20, 5, dtype=torch.long),
                     net=Returns(lambda out: out[:, None].expand(20, 5, 3)))),
    ],
)  # fmt: skip
def test_shapes_and_dtypes_that_do_not_fit(match, act):
    check(match, act, DataError)


@pytest.mark.parametrize(
    ("match", "act"),
    [
        (r"Target 3 is out of bounds: the network has 3 outputs, so class indices run from 0 to 2",
         lambda: fit(LABELS + 1)),
        (r"Target -1 is out of bounds: .*-100", lambda: fit(LABELS - 1)),
        (r'single output\..*"bce_with_logits"', lambda: fit(LABELS, net=nn.Linear(4, 1))),
        (r'probabilities, from 0 to 1: .*sigmoid.*"bce_with_logits"',
         lambda: fit(LABELS.clamp(max=1), "bce", nn.Linear(4, 1))),
    ],
)  # fmt: skip
def test_labels_out_of_range(match, act):
    check(r"The loss failed on train batch 1: y_pred \(20, \d\) float32, y_true", act, StepError)
    check(match, act, RuntimeError)


def test_labels_out_of_range_for_a_metric():
    check(
        r'The metric "fscore_macro" failed on train batch 1: The target holds the label 3, but',
        lambda: fit(LABELS + 1, lambda p, t: p.sum(), epoch_metrics=["f1"]),
        DataError,
    )


@pytest.mark.parametrize(
    ("match", "net"),
    [
        (r"returned a tuple of 2, .*prediction_key=0\)", Returns(lambda out: (out, out))),
        (r"returned a list of 1, .*prediction_key=0\)", Returns(lambda out: [out])),
        (r'returned a dict with keys "a", "logits".*prediction_key="logits"\)',
         Returns(lambda out: {"a": out, "logits": out})),
        ("returned None; let its forward end with a return", Returns(lambda out: None)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_outputs_that_a_plain_loss_cannot_take(match, net, loss):
    check(match, lambda: fit(LABELS, loss, net), StepError)


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "loss"),
    [
        ("returned 20 values; a loss is one number", nn.CrossEntropyLoss(reduction="none")),
        ("returned 60 values; a loss is one number", lambda p, t: p * p),
        ("returned None; a loss is one number", lambda p, t: None),
        (r"returned a float on train batch 1; .*without \.item\(\)", lambda p, t: p.sum().item()),
        ("does not depend on any weight that trains.*detach", lambda p, t: p.detach().sum()),
        ("does not depend on any weight", lambda p, t: (p.argmax(1) == t).float().mean()),
    ],
)
def test_losses_that_cannot_train(match, loss):
    check(match, lambda: fit(LABELS, loss))


def test_no_loss():
    check(
        r'loss_function=None, and the network.s output \(a Tensor\) carries no loss.*"mse"',
        lambda: fit(LABELS, None),
    )


def test_a_loss_of_the_user_that_fails_shows_both():
    def loss(y_pred, y_true):
        return y_pred @ y_true

    with pytest.raises(StepError, match=r"y_pred \(20, 3\) float32.*It said: ") as caught:
        fit(LABELS, loss)
    assert isinstance(caught.value.__cause__, RuntimeError)


class MineError(Exception):
    """An exception of the user's own."""


def raises(error):
    def function(y_pred, y_true):
        raise error

    return function


@pytest.mark.parametrize(
    "error", [MineError("x"), NotImplementedError("x"), torch.OutOfMemoryError("x")]
)
def test_errors_that_mean_something_of_their_own_keep_their_type(error):
    with pytest.raises(type(error)) as caught:
        fit(LABELS, raises(error))
    assert caught.value is error
    assert str(error) == "x"
    (note,) = error.__notes__
    assert note == (
        "This happened in the loss, on train batch 1: y_pred (20, 3) float32, y_true (20,) int64."
    )


# --- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["batch_metrics", "epoch_metrics"])
def test_a_metric_that_fails_is_named(argument):
    def fails(y_pred, y_true):
        raise ValueError("not so")

    check(
        r'The metric "fails" failed on train batch 1: y_pred \(20, 3\) float32, y_true \(20,\) '
        r"int64\. It said: not so\.$",
        lambda: fit(LABELS, **{argument: ["acc", fails]}),
        StepError,
    )


def test_a_metric_with_several_values():
    check(
        r'"pair" returned 2 values for 1 name\. Name each value',
        lambda: fit(LABELS, batch_metrics=[("pair", lambda p, t: (1.0, 2.0))]),
        ValueError,
    )


def test_a_metric_without_update_or_forward():
    class Bare(Metric):
        def compute(self):
            return 0.0

        def reset(self):
            pass

    with pytest.raises(NotImplementedError, match="Bare implements no update or forward"):
        fit(LABELS, batch_metrics=[Bare()])


# --- the network ---------------------------------------------------------------------------------


def test_an_error_in_the_network_keeps_its_type_and_says_where():
    with pytest.raises(KeyError) as caught:
        fit(LABELS, net=Returns(lambda out: {"a": 1}["b"]))
    assert not isinstance(caught.value, ClarionError)
    assert caught.value.__notes__ == [
        "This happened in the network, on train batch 1, called with: (20, 4) float32."
    ]


def test_layers_that_do_not_fit_the_input():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        fit(LABELS, net=nn.Linear(5, 3))
    assert "(20, 4) float32" in caught.value.__notes__[0]


def test_one_number_per_example_for_a_layer_of_one_feature():
    with pytest.raises(RuntimeError, match=r"The input has shape \(20,\).*x\.reshape\(-1, 1\)"):
        fit(VALUES, "mse", nn.Linear(1, 1), x=X[:, 0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_whole_numbers_as_inputs_of_layers_of_floats(dtype):
    with pytest.raises(RuntimeError) as caught:
        fit(LABELS, x=(X * 10).to(dtype))
    name = str(dtype).removeprefix("torch.")
    assert caught.value.__notes__[1].startswith(f"The input is {name}, and layers like Linear")
    assert "x.float()" in caught.value.__notes__[1]
    assert ("divide pixels by 255" in caught.value.__notes__[1]) is (dtype is torch.uint8)


@pytest.mark.parametrize(
    ("remedy", "act"),
    [
        (r"complex64, .* with torch\.view_as_real\(x\)", lambda: fit(LABELS, x=X.cfloat())),
        (r'int64, .* x\.float\(\), or x\.astype\("float32"\) of an ndarray',
         lambda: fit(LABELS, x=X.long().numpy())),
        (r'float32, and the weights are bfloat16: .*precision="bf16-mixed"; or .*torch\.bfloat16',
         lambda: fit(LABELS, net=nn.Linear(4, 3).bfloat16())),
        (r"channels stand last, .*x\.movedim\(-1, 1\).*in memory, not their shape",
         lambda: fit(LABELS, net=nn.Conv2d(3, 3, 2), x=torch.zeros(20, 4, 4, 3),
                     channels_last=True)),
        (r"channels stand last",
         lambda: fit(LABELS, net=nn.Conv1d(3, 3, 2), x=torch.zeros(20, 4, 3))),
        (r"no dimension for their channels, .*: x\[:, None\]",
         lambda: fit(LABELS, net=nn.Conv2d(1, 3, 2), x=torch.zeros(20, 4, 4))),
        (r'a dict with the keys "inputs" as one argument, .*Linear\.forward: "input"',
         lambda: fit(LABELS, x={"inputs": X})),
        (r'The Embedding "1" has 5 rows and got indices from 1 to 7: give it more rows',
         lambda: fit(LABELS, net=nn.Sequential(nn.Identity(), nn.Embedding(5, 3), nn.Identity()),
                     x=torch.arange(20) % 7 + 1)),
        (r'are whole numbers: .* x\.astype\("int64"\) of an ndarray',
         lambda: fit(LABELS, net=nn.Embedding(5, 3), x={"input": torch.ones(20)})),
        (r'"labels" holds text, .* encode labels as whole numbers from 0, and texts with a tok',
         lambda: bert(labels=["a"] * 20)),
        (r"have 12 tokens, and the network has 8 positions: .*max_length=8\)",
         lambda: bert(input_ids=[[1] * 12] * 20)),
        (r"fewer outputs than there are classes: .*num_labels=6 or more",
         lambda: bert(labels=[5] * 20)),
        (r"input is int8", lambda: fit(LABELS, x={"input": X.to(torch.int8)})),
        (r'no batch of one, or pass dataloader_kwargs={"drop_last": True}',
         lambda: fit(LABELS[:1], net=nn.BatchNorm1d(4), x=X[:1])),
        (r"one argument each; .* of examples as one array, np\.stack\(x\)",
         lambda: Model(nn.Linear(4, 3), None).predict(list(X), verbose=False)),
        (r"An example of the batch holds None",
         lambda: Model(nn.Linear(4, 3), "sgd", "cross_entropy").fit_dataset(
             [(X[0], LABELS[0]), (X[1], None)], epochs=1, verbose=False)),
        (r"computed with gradients before it, .* as in x\.detach\(\)",
         lambda: Model(nn.Linear(4, 3), "sgd", "cross_entropy").fit(
             nn.Linear(4, 4)(X), LABELS, batch_size=5, epochs=1, verbose=False)),
    ],
)  # fmt: skip
def test_what_helps_is_told_beside_an_error_of_torch(remedy, act):
    with pytest.raises((AttributeError, IndexError, RuntimeError, TypeError, ValueError)) as caught:
        act()
    assert len(caught.value.__notes__) == 2
    assert re.search(remedy, message_of(caught.value.__notes__[1])), caught.value.__notes__


def test_many_inputs_are_told_in_short():
    class Many(nn.Module):
        def forward(self, input_ids=None, **inputs):
            raise ValueError

    with pytest.raises(ValueError, match=r"key5=\(20, 4\) float32, and 3 more\.$"):
        Model(Many(), None, None).predict_on_batch({f"key{i}": X for i in range(9)})


@pytest.mark.parametrize(
    ("method", "arguments", "stage"),
    [
        ("evaluate", (X, LABELS), "test"),
        ("evaluate_on_batch", (X, LABELS), "test"),
        ("train_on_batch", (X, LABELS), "train"),
        ("predict", (X,), "predict"),
        ("predict_on_batch", (X,), "predict"),
    ],
)
def test_the_stage_is_named(method, arguments, stage):
    net = Returns(lambda out: {}["b"])
    options = {} if method.endswith("batch") else {"verbose": False}
    with pytest.raises(KeyError) as caught:
        getattr(Model(net, "sgd", "mse"), method)(*arguments, **options)
    assert f"on {stage} batch 1" in caught.value.__notes__[0]


def test_validation_is_named_too():
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")

    check(
        "The loss failed on valid batch 1",
        lambda: model.fit(X, LABELS, (X, LABELS + 1), epochs=1, verbose=False),
    )


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "act"),
    [
        (r'Model\.fit has no argument "epoch"; did you mean "epochs"\?',
         lambda m: m.fit(X, LABELS, epoch=1)),
        (r'Model\.fit has no argument "batchsize"; did you mean "batch_size"\?',
         lambda m: m.fit(X, LABELS, batchsize=1)),
        (r'Model\.evaluate has no argument "step"; did you mean "steps"\?',
         lambda m: m.evaluate(X, LABELS, step=1)),
        (r'Model\.predict_generator has no argument "concatenate"; did you mean "concatenate_re',
         lambda m: m.predict_generator([X], concatenate=True)),
        (r"Model\.predict: too many positional arguments. By position it takes \"x\"",
         lambda m: m.predict(X, LABELS)),
        (r"Model\.fit: missing a required argument: 'x'", lambda m: m.fit()),
        (r'DataLoader has no argument "batchsize"; did you mean "batch_size"',
         lambda m: m.fit(X, LABELS, verbose=False, dataloader_kwargs={"batchsize": 2})),
    ],
)  # fmt: skip
def test_arguments(match, act):
    check(match, lambda: act(Model(nn.Linear(4, 3), "sgd", "cross_entropy")), TypeError)


def test_a_model_without_an_optimizer():
    model = Model(nn.Linear(4, 3), None, "cross_entropy")

    check(
        r'optimizer=None, so it cannot train\. .*Model\(network, "adam", loss_function\)',
        lambda: model.fit(X, LABELS, epochs=1, verbose=False),
        ValueError,
    )


def headed(optimizer):
    """Return a model of which only the head, the last layer, learns."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    net[:2].requires_grad_(False)
    return Model(net, optimizer(net) if callable(optimizer) else optimizer, "cross_entropy")


def thaw(network):
    network.requires_grad_()


def replace_the_head(network):
    network[2] = nn.Linear(4, 3)


@pytest.mark.parametrize("optimizer", ["adam", {"optim": "sgd", "lr": 0.1}])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            thaw,
            r'does not know "0\.weight", "0\.bias", "1\.weight" and 1 more, .*Build a new Model',
        ),
        (
            replace_the_head,
            r'know "2\.weight", "2\.bias", which will not be trained: .*add_param_gr',
        ),
    ],
)
def test_weights_that_the_optimizer_does_not_know(optimizer, change, match):
    model = headed(optimizer)
    model.fit(X, LABELS, epochs=1, verbose=False)
    change(model.network)
    with pytest.warns(UserWarning, match=match) as caught:
        model.fit(X, LABELS, epochs=2, verbose=False)
    assert len(caught) == 1

    known = {p for group in model.optimizer.param_groups for p in group["params"]}
    left_out = [p for p in model.network.parameters() if p not in known]
    model.optimizer.add_param_group({"params": left_out})
    model.fit(X, LABELS, epochs=1, verbose=False)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda net: torch.optim.SGD(net[2].parameters(), lr=0.1),
        lambda net: Optimization(torch.optim.SGD(net[2].parameters(), lr=0.1)),
    ],
)
def test_an_optimizer_of_the_users_own_may_train_a_part(optimizer):
    model = headed(optimizer)
    thaw(model.network)
    model.fit(X, LABELS, epochs=1, verbose=False)


def test_freezing_by_epoch_leaves_nothing_out():
    options = {"optim": "adam", "freeze": {"0.*": 2}}
    model = Model(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), options, "cross_entropy")
    model.fit(X, LABELS, epochs=2, verbose=False)
    model.fit(X, LABELS, epochs=3, initial_epoch=3, verbose=False)


def test_an_error_in_a_hook_is_the_users_to_see():
    class Breaks(Callback):
        def on_epoch_end(self, epoch_number, logs):
            raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$") as caught:
        Model(nn.Linear(4, 3), "sgd", "cross_entropy").fit(
            X, LABELS, epochs=1, verbose=False, callbacks=[Breaks()]
        )
    assert not isinstance(caught.value, ClarionError)
    assert not hasattr(caught.value, "__notes__")


def test_an_error_in_a_dataset_says_which_batch_was_asked_for():
    class Breaks(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index == 5:
                raise FileNotFoundError("5.png")
            return X[index], LABELS[index]

    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")
    with pytest.raises(FileNotFoundError, match=r"5\.png") as caught:
        model.fit_generator(DataLoader(Breaks(), batch_size=2), epochs=1, verbose=False)
    assert caught.value.__notes__ == [
        "This happened in row 5 of the dataset.",
        "This happened while the train loader in epoch 1 was asked for batch 3.",
    ]


STEP = StepLR(step_size=1)
DOUBLES = {
    "in the list": [STEP, STEP],
    "inside a checkpoint": [STEP, LRSchedulerCheckpoint(STEP, "unused.lrs")],
    "inside a delay": [DelayCallback([STEP]), STEP],
}


@pytest.mark.parametrize("callbacks", DOUBLES.values(), ids=DOUBLES)
def test_a_callback_that_stands_twice(callbacks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")
    with pytest.warns(UserWarning, match=r"^A StepLR stands twice among the callbacks, .* once;"):
        model.fit(X, LABELS, epochs=1, verbose=False, callbacks=callbacks)
    once = [StepLR(step_size=1), LRSchedulerCheckpoint(StepLR(step_size=1), "once.lrs")]
    model.fit(X, LABELS, epochs=1, verbose=False, callbacks=once)


@pytest.mark.parametrize("missing", [np.nan, None])
def test_labels_that_are_missing(missing):
    labels = pd.Series([0, missing, 1, 2, missing] * 4, dtype="Int64" if missing is None else float)
    told = r"8 of the target are nan: these labels are missing\. .* y\.nan_to_num\(-100\)\.long\(\)"
    with pytest.raises(DataError, match=told):
        fit(labels)


def test_a_data_frame_as_a_batch():
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy")
    with pytest.raises(TypeError) as caught:
        model.fit_generator([(pd.DataFrame(X.numpy()), LABELS)], epochs=1, verbose=False)
    note = caught.value.__notes__[-1]
    assert re.match(r'A DataFrame in a batch .* as in x\.to_numpy\("float32"\)', note)
