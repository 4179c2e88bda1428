"""What a batch counts in the mean over a pass: its examples, or the targets that count."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from clarion import Batch, Model


class Autoencoder(nn.Module):
    """Computes its own loss, and has no target."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        found = self.layer(x)
        return {"loss": F.mse_loss(found, x), "found": found}


@pytest.mark.parametrize("batch_size", [32, 11])
def test_a_loss_of_the_network_without_a_target_is_a_mean_over_examples(batch_size):
    torch.manual_seed(0)
    network, x = Autoencoder(), torch.randn(33, 4)
    x[32] *= 100
    found = Model(network, None, None).evaluate(x, batch_size=batch_size, verbose=False)
    assert found == pytest.approx(network(x)["loss"].item(), rel=1e-5)


@pytest.fixture
def texts():
    """A model that tells the next token, and texts of 2 to 12 tokens, sorted by length."""
    torch.manual_seed(0)
    options = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_positions": 16}
    options |= {"bos_token_id": 1, "eos_token_id": 2}
    network = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, **options))
    ids = torch.randint(1, 50, (32, 12))
    labels = ids.clone()
    lengths = torch.randint(2, 13, (32,)).sort().values
    labels[torch.arange(12) >= lengths[:, None]] = -100
    return network, {"input_ids": ids, "labels": labels}


def test_a_causal_language_model_counts_the_tokens_that_it_is_to_tell(texts):
    network, data = texts
    data["labels"][:4, 1:] = -100  # nothing to tell in the first batch
    expected = network(**data).loss.item()
    found = Model(network, None, None).evaluate(data, batch_size=4, verbose=False)
    assert found == pytest.approx(expected, rel=1e-6)


def test_accumulated_steps_of_a_causal_language_model_are_those_of_one_big_batch(texts):
    network, data = texts

    def weights(size, number):
        model = Model(copy.deepcopy(network), {"optim": "sgd", "lr": 1.0}, None)
        options = {"batches_per_step": number, "dataloader_kwargs": {"shuffle": False}}
        model.fit(data, batch_size=size, epochs=1, verbose=False, **options)
        return torch.cat([p.detach().flatten() for p in model.network.parameters()])

    torch.testing.assert_close(weights(4, 8), weights(32, 1), rtol=1e-4, atol=1e-6)


class Adapted(nn.Module):
    """A network around another one, as PEFT puts it."""

    def __init__(self, network):
        super().__init__()
        self.base_model = network

    def get_base_model(self):
        return self.base_model

    def forward(self, input_ids=None, labels=None, **kwargs):
        return self.base_model(input_ids=input_ids, labels=labels, **kwargs)


def test_a_causal_language_model_with_adapters_counts_the_same_tokens(texts):
    network, data = texts
    found = Model(Adapted(network), None, None).evaluate(data, batch_size=4, verbose=False)
    assert found == pytest.approx(network(**data).loss.item(), rel=1e-6)


def test_the_loss_of_an_alignment_is_a_mean_over_recordings():
    torch.manual_seed(0)
    options = {"conv_dim": (16,), "conv_stride": (5,), "conv_kernel": (5,), "pad_token_id": 0}
    options |= {"num_feat_extract_layers": 1, "num_conv_pos_embeddings": 4, "vocab_size": 8}
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_conv_pos_embedding_groups=2, ctc_loss_reduction="mean", **options,
    )  # fmt: skip
    network = Wav2Vec2ForCTC(config).eval()
    labels = torch.randint(1, 8, (6, 6))
    labels[torch.arange(6) > torch.arange(6)[:, None]] = -100
    data = {"input_values": torch.randn(6, 100), "labels": labels}
    found = Model(network, None, None).evaluate(data, batch_size=2, verbose=False)
    assert found == pytest.approx(network(**data).loss.item(), rel=1e-5)


def test_pixels_that_a_network_ignores_do_not_count():
    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=3, num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8],
        num_attention_heads=[1], patch_sizes=[3], strides=[2], mlp_ratios=[1],
        decoder_hidden_size=8,
    )  # fmt: skip
    network = SegformerForSemanticSegmentation(config).eval()
    labels = torch.randint(0, 3, (4, 8, 8))
    labels[:2, 1:] = config.semantic_loss_ignore_index
    data = {"pixel_values": torch.randn(4, 3, 8, 8) * 9, "labels": labels}
    found = Model(network, None, None).evaluate(data, batch_size=2, verbose=False)
    assert found == pytest.approx(network(**data).loss.item(), rel=1e-6)


class TimeFirst(nn.Module):
    """Returns scores of shape (T, N, C), as a loss over alignments takes them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x).transpose(0, 1).log_softmax(-1)


def alignment_loss(y_pred, y_true):
    steps, rows = y_pred.shape[:2]
    lengths = torch.full((rows,), steps), torch.full((rows,), y_true.shape[1])
    return F.ctc_loss(y_pred, y_true, *lengths, reduction="sum") / rows


def test_scores_with_the_time_first_are_weighed_by_examples():
    torch.manual_seed(0)
    network = TimeFirst()
    batches = [
        (torch.randn(rows, steps, 4), torch.randint(1, 3, (rows, 2)))
        for rows, steps in ((2, 50), (8, 5))
    ]
    each = [alignment_loss(network(x), y).item() for x, y in batches]
    model = Model(network, None, alignment_loss, batch_metrics=[("same", alignment_loss)])
    found = model.evaluate_generator(batches, verbose=False)
    assert found == pytest.approx([(2 * each[0] + 8 * each[1]) / 10] * 2)


def test_a_size_that_unpack_tells_is_not_doubted():
    torch.manual_seed(0)
    network = nn.Linear(3, 3)
    batches = [(torch.randn(*shape), torch.randn(*shape)) for shape in ((7, 2, 3), (3, 10, 3))]
    each = [F.mse_loss(network(x), y).item() for x, y in batches]

    def unpack(raw):
        return Batch(args=(raw[0],), target=raw[1], size=raw[0].shape[1])

    found = Model(network, None, "mse", unpack=unpack).evaluate_generator(batches, verbose=False)
    assert found == pytest.approx((2 * each[0] + 10 * each[1]) / 12)


class Swapped:
    """Returns a mapping in another order than its names."""

    __name__ = ("one", "two")

    def __call__(self, y_pred, y_true):
        return {"two": 2.0, "one": 1.0}


def test_values_under_new_names_are_those_of_the_old_ones():
    names = ["batch_one", "batch_two"], ["epoch_one", "epoch_two"]
    model = Model(
        nn.Linear(4, 1),
        None,
        "mse",
        batch_metrics=[(names[0], Swapped())],
        epoch_metrics=[(names[1], Swapped())],
    )
    _, values = model.evaluate(torch.randn(8, 4), torch.randn(8, 1), verbose=False)
    assert list(values) == [1.0, 2.0, 1.0, 2.0]


def test_a_model_can_be_copied_after_a_batch_and_keeps_no_graph():
    model = Model(nn.Linear(4, 1), "sgd", "mse", batch_metrics=["mae"])
    model.train_on_batch(torch.randn(8, 4), torch.randn(8, 1))
    copy.deepcopy(model)


def test_metrics_that_compare_what_stands_in_one_place_are_told_to_say_nothing(texts):
    network, data = texts
    with pytest.warns(UserWarning, match='each token by the label after it, and the metrics "perp'):
        Model(network, None, None, epoch_metrics=["perplexity"])

    def perplexity(y_pred, y_true):
        return F.cross_entropy(y_pred[:, :-1].flatten(0, 1), y_true[:, 1:].flatten()).exp()

    model = Model(network, None, None, batch_metrics=[perplexity])
    loss, found = model.evaluate(data, batch_size=32, verbose=False)
    assert found == pytest.approx(torch.tensor(loss).exp().item(), rel=1e-5)


class Detector(nn.Module):
    """Takes a dict of tensors for each image, as the models of transformers that find things do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, pixel_values, labels):
        found = (pixel_values * self.weight).mean((1, 2, 3))
        wanted = torch.stack([label["boxes"].mean() for label in labels])
        return {"loss": F.mse_loss(found, wanted), "logits": found}


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_a_dict_for_each_image_is_an_example_of_the_mean(batch_size):
    torch.manual_seed(0)
    x, boxes = torch.randn(5, 3, 2, 2), [{"boxes": torch.randn(n, 4)} for n in (1, 2, 3, 1, 9)]
    batches = [
        {"pixel_values": x[i : i + batch_size], "labels": boxes[i : i + batch_size]}
        for i in range(0, 5, batch_size)
    ]
    network = Detector()
    found = Model(network, None, None).evaluate_generator(batches, verbose=False)
    assert found == pytest.approx(network(x, boxes)["loss"].item(), rel=1e-5)
