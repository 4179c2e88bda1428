"""The fresh marker, and the arithmetic that the machine is good at."""

import pytest
import torch
from ordering.network import best_precision, give_fresh_start, load_network
from torch import nn
from transformers import BertConfig, BertForTokenClassification


def tiny_bert() -> nn.Module:
    config = BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=1,
    )  # fmt: skip
    return BertForTokenClassification(config)


def test_a_fresh_start_changes_one_row_to_the_usual_size() -> None:
    torch.manual_seed(0)
    network = tiny_bert()
    before = network.get_input_embeddings().weight.clone()
    give_fresh_start(network, 3)
    after = network.get_input_embeddings().weight
    changed = (before != after).any(1)
    assert changed.tolist() == [row == 3 for row in range(12)]
    assert 0.2 * before.std() < after[3].std() < 5 * before.std()


def test_head_and_marker_follow_from_the_seed(tmp_path) -> None:
    tiny_bert().save_pretrained(tmp_path)

    def weights(seed: int, fresh: int | None) -> list[torch.Tensor]:
        network = load_network(tmp_path, fresh_token=fresh, seed=seed)
        return [network.get_input_embeddings().weight[2], network.get_input_embeddings().weight[5]]

    plain, same, other = weights(0, None), weights(0, 2), weights(1, 2)
    assert torch.equal(same[0], weights(0, 2)[0])
    assert not torch.equal(same[0], other[0])
    assert not torch.equal(same[0], plain[0])
    assert torch.equal(same[1], plain[1])


def test_the_head_starts_at_the_mean_place(tmp_path) -> None:
    tiny_bert().save_pretrained(tmp_path)
    network = load_network(tmp_path, fresh_token=2, seed=0, mean_place=2.5).eval()
    logits = network(input_ids=torch.arange(12)[None]).logits
    assert logits.mean().item() == pytest.approx(2.5, abs=0.2)


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16-mixed"),
        ({"avx512_bf16": False, "avx2": True}, "32"),
        ({}, "32"),
    ],
)
def test_bfloat16_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, abilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert best_precision("auto", "cpu") == expected
    assert best_precision("32", "cpu") == "32"
