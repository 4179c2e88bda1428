"""The same training by clarion and by the Trainer of transformers, step by step."""

import pytest
import torch

from clarion import Callback, Model

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

EPOCHS, BATCHES, SIZE, ACCUMULATED = 5, 24, 4, 4
LR, CLIP = 5e-3, 1.0


def make_network():
    torch.manual_seed(11)
    config = transformers.GPT2Config(
        vocab_size=40,
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def make_examples():
    """Return texts of 2 to 12 tokens, padded; padding and the first token are no targets."""
    generator = torch.Generator().manual_seed(12)
    examples = []
    for _ in range(BATCHES * SIZE):
        tokens = torch.randint(1, 20, (12,), generator=generator)
        length = int(torch.randint(2, 13, (), generator=generator))
        mask = (torch.arange(12) < length).long()
        labels = torch.where(mask > 0, tokens, -100)
        labels[0] = -100
        examples.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return examples


class Steps(Callback):
    """Keeps the mean loss over tokens, the learning rate and the norm of each optimizer step."""

    def __init__(self, batches):
        self.losses, self.rates, self.norms, self._window = [], [], [], []
        self.tokens = [int((batch["labels"] != -100).sum()) for batch in batches]

    def on_optimizer_step_begin(self, step):
        self.rates.append(self.model.optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, batch_number, logs):
        tokens = self.tokens[batch_number - 1]
        self._window.append((logs["loss"] * tokens, tokens))
        if "grad_norm" in logs:
            self.norms.append(logs["grad_norm"])
            total, number = map(sum, zip(*self._window, strict=True))
            self.losses.append(total / number)
            self._window = []


def train_by_clarion(network):
    options = {
        "optim": "adamw",
        "lr": LR,
        "weight_decay": 0.01,
        "decay_biases_and_norms": False,
        "schedule": "linear",
        "warmup": 0.1,
        "clip_norm": CLIP,
    }
    examples = make_examples()
    batches = [
        transformers.default_data_collator(examples[i : i + SIZE])
        for i in range(0, len(examples), SIZE)
    ]
    steps = Steps(batches)
    model = Model(network, options, None)
    model.fit_generator(
        batches, epochs=EPOCHS, batches_per_step=ACCUMULATED, verbose=False, callbacks=[steps]
    )
    return steps


def train_by_trainer(network, directory):
    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Seen(transformers.TrainerCallback):
        rates = []  # noqa: RUF012

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    seen = Seen()
    seen.rates = []
    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE,
        gradient_accumulation_steps=ACCUMULATED,
        learning_rate=LR,
        weight_decay=0.01,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        max_grad_norm=CLIP,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
    )
    trainer = InOrder(network, arguments, train_dataset=make_examples(), callbacks=[seen])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "grad_norm" in row]
    return [row["loss"] for row in rows], seen.rates, [row["grad_norm"] for row in rows]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_losses_rates_norms_and_weights_of_thirty_steps(tmp_path):
    ours, theirs = make_network(), make_network()
    steps = train_by_clarion(ours)
    losses, rates, norms = train_by_trainer(theirs, tmp_path)
    assert len(steps.losses) == len(losses) == EPOCHS * BATCHES // ACCUMULATED == 30
    assert max(rates) == pytest.approx(LR)
    assert steps.rates == pytest.approx(rates, abs=1e-9)
    assert steps.losses == pytest.approx(losses, abs=1e-5)
    assert steps.norms == pytest.approx(norms, rel=1e-3)
    assert min(norms) < CLIP < max(norms)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
