"""``ModelWrapper``, ``model_loss`` and ``MetricWrapper``."""

import copy
import functools
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarion.errors import DataError, InvalidArgumentError
from clarion.metrics import Accuracy, acc
from clarion.model import Model
from clarion.transformers import MetricWrapper, ModelWrapper, TransformerCollator, model_loss


@pytest.fixture
def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def examples(n: int = 10) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(30, (n, 5), generator=generator).tolist()
    return [{"input_ids": row, "labels": sum(row) % 3} for row in ids]


def batches(collate: Any, size: int = 4) -> list[Any]:
    rows = examples()
    return [collate(rows[start : start + size]) for start in range(0, len(rows), size)]


def test_model_wrapper_calls_the_transformer_by_keywords(bert: nn.Module) -> None:
    inputs = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.tensor([[1, 1]])}
    wrapped = ModelWrapper(bert).eval()
    assert torch.equal(wrapped(inputs).logits, bert(**inputs).logits)


def test_model_wrapper_stands_in_a_sequence(bert: nn.Module) -> None:
    class Logits(nn.Module):
        def forward(self, outputs: Any) -> Tensor:
            return outputs["logits"]

    network = nn.Sequential(ModelWrapper(bert), Logits(), nn.Linear(3, 2))
    assert network(UserDict(input_ids=torch.tensor([[1, 2]]))).shape == (1, 2)


def test_model_wrapper_saves_what_transformers_loads(bert: nn.Module, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    ModelWrapper(bert).save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, bert.classifier.weight)


def test_model_wrapper_wants_a_mapping(bert: nn.Module) -> None:
    with pytest.raises(DataError, match="ModelWrapper got a Tensor"):
        ModelWrapper(bert)(torch.tensor([[1]]))


def test_model_loss_is_the_loss_of_the_output() -> None:
    assert model_loss({"loss": torch.tensor(2.0)}, None) == 2.0
    with pytest.raises(InvalidArgumentError, match='holds "logits" and no loss'):
        model_loss({"logits": torch.zeros(1)}, None)


def test_metric_wrapper_reads_the_key_of_the_output() -> None:
    metric = MetricWrapper(F.mse_loss, pred_key="scores")
    outputs = {"scores": torch.tensor([1.0, 2.0]), "logits": torch.tensor([9.0, 9.0])}
    assert metric(outputs, torch.tensor([1.0, 4.0])) == 2.0


def test_metric_wrapper_takes_the_key_of_the_target_from_the_target() -> None:
    metric = MetricWrapper(F.mse_loss, y_key="score")
    outputs = {"logits": torch.tensor([1.0]), "score": torch.tensor([100.0])}
    assert metric(outputs, {"score": torch.tensor([3.0])}) == 4.0


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (F.mse_loss, "mse_loss"),
        (acc, "acc"),
        (Accuracy(), "acc"),
        ("accuracy", "acc"),
        (nn.MSELoss(), "mse_loss"),
        (functools.partial(F.mse_loss), "partial"),
        (("mine", F.mse_loss), "mine"),
        ((["a", "b"], lambda p, t: (p, t)), ["a", "b"]),
    ],
)
def test_metric_wrapper_has_the_name_of_any_metric(metric: Any, name: Any) -> None:
    assert MetricWrapper(metric).__name__ == name


def test_metric_wrapper_keeps_the_state_of_the_metric() -> None:
    metric = MetricWrapper(Accuracy())
    logits = torch.eye(3)
    assert metric({"logits": logits}, torch.tensor([0, 1, 0])) == pytest.approx(200 / 3)
    metric.update({"logits": logits}, torch.tensor([0, 1, 2]))
    assert metric.compute() == pytest.approx(500 / 6)
    metric.reset()
    assert torch.as_tensor(metric.compute()).isnan()


def test_metric_wrapper_of_a_function_has_no_state() -> None:
    metric = MetricWrapper(F.mse_loss)
    assert not any(hasattr(metric, name) for name in ("compute", "reset", "update"))


def test_metric_wrapper_can_be_copied() -> None:
    metric = copy.deepcopy(MetricWrapper(acc, y_key="labels"))
    y_true = {"labels": torch.tensor([0, -100, 1])}
    assert metric({"logits": torch.eye(3)[[0, 0, 0]]}, y_true) == 50.0
    assert metric.target_weight(y_true) == 2


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            MetricWrapper(acc, pred_key="logit"),
            r'the model holds "logits"; did you mean "logits"\?',
        ),
        (MetricWrapper(acc, y_key="label"), r'y_key="label"\): the target holds "labels"'),
    ],
)
def test_metric_wrapper_names_a_missing_entry(metric: MetricWrapper, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metric({"logits": torch.eye(2)}, {"labels": torch.tensor([0, 1])})


def test_metric_wrapper_of_a_target_that_is_no_mapping() -> None:
    with pytest.raises(DataError, match="the target is a Tensor"):
        MetricWrapper(acc, y_key="labels")({"logits": torch.eye(2)}, torch.tensor([0, 1]))


def test_a_training_as_users_of_poutyne_transformers_write_it(bert: nn.Module) -> None:
    plain = copy.deepcopy(bert)
    optimizer = torch.optim.SGD(bert.parameters(), lr=0.1)
    metrics = [MetricWrapper(acc), MetricWrapper(Accuracy())]
    model = Model(ModelWrapper(bert), optimizer, model_loss, batch_metrics=metrics, device="cpu")
    train = batches(TransformerCollator(y_keys="labels"))
    history = model.fit_generator(train, epochs=1, verbose=False)

    by_hand = torch.optim.SGD(plain.parameters(), lr=0.1)
    losses, right = [], 0
    for inputs, y in train:
        output = plain(**inputs)
        losses.append(output.loss.item() * len(y))
        right += (output.logits.argmax(1) == y).sum().item()
        by_hand.zero_grad()
        output.loss.backward()
        by_hand.step()
    assert history[0]["loss"] == pytest.approx(sum(losses) / 10)
    assert history[0]["acc1"] == history[0]["acc2"] == pytest.approx(10.0 * right)
    assert all(
        torch.equal(a, b) for a, b in zip(bert.parameters(), plain.parameters(), strict=True)
    )


def test_a_tokenizers_batch_reaches_the_device_of_the_model(bert: nn.Module) -> None:
    from transformers import BatchEncoding

    seen: list[Any] = []

    class Watch(ModelWrapper):
        def forward(self, inputs: Any) -> Any:
            seen.append({key: value.device.type for key, value in inputs.items()})
            return super().forward(inputs)

    def collate(rows: list[dict[str, Any]]) -> BatchEncoding:
        return BatchEncoding({k: torch.tensor([row[k] for row in rows]) for k in rows[0]})

    model = Model(Watch(bert), None, F.cross_entropy, device="meta")
    prediction = model.predict_on_batch(collate(examples(3)), convert_to_numpy=False)
    assert seen == [{"input_ids": "meta", "labels": "meta"}]
    assert prediction["logits"].device.type == "meta"


def test_predictions_of_a_wrapped_model(bert: nn.Module) -> None:
    model = Model(ModelWrapper(bert), None, model_loss)
    pairs = batches(TransformerCollator(y_keys="labels", remove_labels=True))
    predicted = model.predict_generator(pairs, has_ground_truth=True, verbose=False)
    with torch.no_grad():
        expected = torch.cat([bert.eval()(**inputs).logits for inputs, _ in pairs])
    np.testing.assert_array_equal(predicted["logits"], expected.numpy())
