"""How models load what they are given."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from clarion import ClarionError, Experiment, Model
from clarion.data.arrays import ArrayBatches

datasets = pytest.importorskip("datasets")

torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randint(0, 3, (24,))


def test_arrays_are_placed_on_the_device_of_the_model_in_every_stage(monkeypatch):
    placed = []
    monkeypatch.setattr(ArrayBatches, "place", lambda loader, device: placed.append(device))
    model = Model(nn.Linear(4, 3), "sgd", "cross_entropy", device="cpu")

    model.fit(X, Y, (X, Y), epochs=1, verbose=False)
    assert placed == [torch.device("cpu")] * 2
    model.evaluate_dataset(TensorDataset(X, Y), verbose=False)
    model.predict(X, verbose=False)
    assert placed == [torch.device("cpu")] * 4


# --- texts of different lengths ------------------------------------------------------------------


class Texts(nn.Module):
    """Scores per text, or per token, of what is no padding."""

    def __init__(self, *, per_token=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 3)
        self.config = SimpleNamespace(pad_token_id=0)
        self.per_token = per_token
        self.shapes = []

    def forward(self, input_ids, attention_mask=None):
        self.shapes.append(tuple(input_ids.shape))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        scores = self.embed(input_ids) * mask[..., None]
        return scores if self.per_token else scores.sum(1)


def texts(count=40):
    numbers = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (count,), generator=numbers).tolist()
    rows = [torch.randint(1, 50, (n,), generator=numbers).tolist() for n in lengths]
    return [{"input_ids": ids, "labels": len(ids) % 3} for ids in rows]


def alone(network, row):
    return network(torch.tensor([row["input_ids"]]))[0].detach()


KINDS = {
    "table": datasets.Dataset.from_list,
    "list": lambda rows: rows,
    "subset": lambda rows: torch.utils.data.Subset(rows, range(len(rows))),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def padded_tokens(network):
    return sum(rows * width for rows, width in network.shapes)


@each_kind
def test_texts_are_padded_and_put_into_buckets_without_a_collate_function(kind):
    rows = texts(160)
    work = {}
    for bucket_by in (None, "length"):
        network = Texts()
        model = Model(network, "sgd", "cross_entropy", batch_metrics=["acc"])
        history = model.fit_dataset(
            KINDS[kind](rows), epochs=2, batch_size=8, bucket_by=bucket_by, verbose=False
        )
        assert len(history) == 2
        assert sum(size for size, _ in network.shapes) == 2 * len(rows)
        work[bucket_by] = padded_tokens(network)

    real = 2 * sum(len(row["input_ids"]) for row in rows)
    assert work["length"] < 1.2 * real
    assert work[None] > 1.5 * real


@each_kind
@pytest.mark.parametrize("bucket_by", [None, "length", lambda row: len(row["input_ids"])])
def test_predictions_and_scores_are_those_of_each_text_alone_in_order(kind, bucket_by):
    rows, network = texts(), Texts()
    model = Model(network, None, "cross_entropy")
    expected = torch.stack([alone(network, row) for row in rows])
    targets = torch.tensor([row["labels"] for row in rows])
    options = {"batch_size": 6, "bucket_by": bucket_by, "verbose": False}

    predictions = model.predict_dataset(KINDS[kind](rows), has_ground_truth=True, **options)
    loss, returned, truth = model.evaluate_dataset(
        KINDS[kind](rows), return_pred=True, return_ground_truth=True, **options
    )

    assert np.allclose(predictions, expected, atol=1e-5)
    assert np.allclose(returned, expected, atol=1e-5)
    assert np.array_equal(truth, targets)
    assert loss == pytest.approx(nn.functional.cross_entropy(expected, targets).item(), rel=1e-5)


def test_predictions_in_buckets_go_into_a_file_in_order(tmp_path):
    rows, network = texts(), Texts()
    model = Model(network, None)
    options = {"has_ground_truth": True, "batch_size": 6, "verbose": False}

    mapped = model.predict_dataset(rows, bucket_by="length", out=tmp_path / "p.npy", **options)

    assert np.allclose(mapped, model.predict_dataset(rows, **options), atol=1e-5)


def test_some_steps_of_buckets_return_the_shortest_texts_in_order():
    rows, network = texts(), Texts()
    found = Model(network, None).predict_dataset(
        rows, bucket_by="length", steps=2, batch_size=6, has_ground_truth=True, verbose=False
    )

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    chosen = lengths.argsort(stable=True)[:12].sort().values.tolist()
    assert np.allclose(found, torch.stack([alone(network, rows[i]) for i in chosen]), atol=1e-5)


def test_outputs_for_tokens_become_one_entry_per_text_in_order():
    rows, network = texts(), Texts(per_token=True)
    found = Model(network, None).predict_dataset(
        rows, bucket_by="length", batch_size=6, has_ground_truth=True, verbose=False
    )

    assert len(found) == len(rows)
    for row, scores in zip(rows, found, strict=True):
        count = len(row["input_ids"])
        assert np.allclose(scores[:count], alone(network, row), atol=1e-5)


def test_a_dataset_given_to_fit_goes_into_buckets_too_and_arrays_do_not():
    network = Texts()
    model = Model(network, "sgd", "cross_entropy")
    model.fit(datasets.Dataset.from_list(texts(80)), epochs=1, bucket_by="length", verbose=False)
    assert sum(size for size, _ in network.shapes) == 80

    with pytest.raises(ClarionError, match="bucket_by puts examples of similar length"):
        model.fit(X, Y, epochs=1, bucket_by="length", verbose=False)


def test_what_contradicts_buckets_is_refused():
    model = Model(Texts(), "sgd", "cross_entropy")
    options = {"bucket_by": "length", "verbose": False}
    sampler = torch.utils.data.RandomSampler(texts())
    with pytest.raises(ClarionError, match=r'bucket_by decides on the order.*"sampler"'):
        model.fit_dataset(texts(), epochs=1, dataloader_kwargs={"sampler": sampler}, **options)
    for name in ("stream=True", "concatenate_returns=False"):
        wrong = {name.split("=")[0]: name.endswith("True")}
        with pytest.raises(ClarionError, match=f"bucket_by reads .*{name}"):
            model.predict_dataset(texts(), **wrong, **options)
    with pytest.raises(ClarionError, match="steps=99 is more than the 2 batches"):
        model.predict_dataset(texts(), steps=99, has_ground_truth=True, **options)

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(texts())

    with pytest.raises(ClarionError, match="bucket_by needs a dataset with examples by index"):
        model.fit_dataset(Endless(), epochs=1, **options)


def test_a_training_in_buckets_goes_on_as_if_it_had_never_stopped(tmp_path):
    def trained(directory, *stops):
        for epochs in stops:
            network = Texts()
            experiment = Experiment(directory, network, task="classif", optimizer="adam")
            experiment.train_dataset(
                texts(),
                texts(),
                epochs=epochs,
                batch_size=6,
                bucket_by="length",
                verbose=False,
                disable_tensorboard=True,
            )
        return network.embed.weight

    assert torch.equal(trained(tmp_path / "a", 3), trained(tmp_path / "b", 1, 3))
