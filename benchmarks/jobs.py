"""What every contender is given: a network, data, an optimizer, and what is asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

__all__ = ["Examples", "Job", "Ready", "macro_f1", "make_job", "padded"]

CLASSES = 10
FEATURES = 32
LONGEST, SHORTEST = 128, 8
VOCABULARY = 8000

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Ready:
    """Batches that are made already, as a list would hold them."""

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]], repeats: int = 1) -> None:
        self.batches = batches
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.batches) * self.repeats

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.repeats):
            yield from self.batches


class Examples(Dataset[tuple[Tensor, int]]):
    """Texts of unequal lengths, as pairs of token numbers and a class."""

    def __init__(self, texts: list[Tensor], classes: list[int]) -> None:
        self.texts = texts
        self.classes = classes
        self.lengths = [len(text) for text in texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.texts[index], self.classes[index]


@dataclass
class Job:
    """One thing to do, in terms that no framework owns.

    Attributes:
        network: What is trained, with its first weights.
        classes: How many classes there are.
        x: The inputs of all examples, shape (N, ...); None if the data is something else.
        y: Their classes, shape (N,), int64.
        batches: Batches made already, instead of arrays.
        valid: Batches to validate on after each epoch; None for no validation.
        examples: Texts of unequal lengths, instead of arrays.
        optimizer: Its name; each framework uses torch's, with torch's defaults beside ``lr``.
        lr: The learning rate.
        batch_size: Examples in a batch.
        epochs: Passes over the data.
        fused: Whether a loop by hand asks for the fused update.
        progress: Whether the framework's own progress bar is shown.
        reads_logs: Whether a callback reads loss and accuracy of each batch.
        bf16: Whether to compute in bfloat16 where that is sound.
        channels_last: Whether images are laid out with the channels last.
        buckets: Whether batches are made of texts of similar length.
        compiled: Whether whole train steps are compiled, before the clock runs.
        own: Whether the tiny network is a class of the user's own instead of ``nn.Sequential``.
    """

    network: nn.Module
    classes: int
    x: Tensor | None = None
    y: Tensor | None = None
    batches: Ready | None = None
    valid: Ready | None = None
    examples: Examples | None = None
    optimizer: str = "sgd"
    lr: float = 0.1
    batch_size: int = 32
    epochs: int = 1
    fused: bool = False
    progress: bool = False
    reads_logs: bool = False
    bf16: bool = False
    channels_last: bool = False
    buckets: bool = False
    compiled: bool = False
    own: bool = False

    def __post_init__(self) -> None:
        """Put the layers of the tiny network into a class, if that is asked for."""
        if self.own and isinstance(self.network, nn.Sequential):
            self.network = Own(*self.network)

    def loader(self, *, shuffle: bool = True) -> Any:
        """Return the data as loops in tutorials take it."""
        if self.batches is not None:
            return self.batches
        if self.examples is not None:
            return DataLoader(self.examples, self.batch_size, shuffle=shuffle, collate_fn=padded)
        return DataLoader(self.dataset(), self.batch_size, shuffle=shuffle)

    def dataset(self) -> Any:
        """Return the examples as a dataset of pairs."""
        if self.examples is not None:
            return self.examples
        assert self.x is not None
        assert self.y is not None
        return TensorDataset(self.x, self.y)

    def torch_optimizer(self, network: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer, as a user of PyTorch writes it."""
        options: dict[str, Any] = {"fused": True} if self.fused else {}
        parameters = (network or self.network).parameters()
        return OPTIMIZERS[self.optimizer](parameters, lr=self.lr, **options)

    def small(self) -> "Job":
        """Return a short job of the same kind, for what happens once in a process."""
        job = replace(self, epochs=1)
        if job.batches is not None:
            job.batches = Ready(job.batches.batches[:3])
        elif job.examples is not None:
            count = 2 * job.batch_size
            job.examples = Examples(job.examples.texts[:count], job.examples.classes[:count])
        else:
            assert job.x is not None
            assert job.y is not None
            count = 3 * job.batch_size
            job.x, job.y = job.x[:count], job.y[:count]
        return job

    @property
    def num_rows(self) -> int:
        """How many examples the network sees while it trains."""
        if self.batches is not None:
            each = sum(len(target) for _, target in self.batches.batches)
            return self.epochs * each * self.batches.repeats
        return self.epochs * len(self.dataset())

    @property
    def num_steps(self) -> int:
        """How many optimizer steps it takes."""
        if self.batches is not None:
            return self.epochs * len(self.batches)
        return self.epochs * -(-len(self.dataset()) // self.batch_size)


def padded(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return token numbers padded with 0 to the longest of a batch, and the classes."""
    texts, classes = zip(*examples, strict=True)
    return nn.utils.rnn.pad_sequence(list(texts), batch_first=True), torch.tensor(classes)


def macro_f1(prediction: Any, target: Any) -> float:
    """Return the mean F1 over classes; 0 for a class that never occurs.

    Args:
        prediction: Scores, shape (N, C), or class numbers, shape (N,).
        target: Class numbers, shape (N,).
    """
    prediction, target = torch.as_tensor(prediction), torch.as_tensor(target)
    guess = prediction.argmax(1) if prediction.ndim == 2 else prediction
    return f1_of_counts(torch.bincount(target * CLASSES + guess, minlength=CLASSES**2))


def f1_of_counts(counts: Tensor) -> float:
    """Return the mean F1 over classes from counts of (target, guess) pairs, shape (C * C,)."""
    table = counts.view(CLASSES, CLASSES).double()
    right = table.diagonal()
    total = table.sum(0) + table.sum(1)
    return (2 * right / total.clamp(min=1)).mean().item()


def make_job(workload: str, scale: float = 1.0) -> Job:
    """Return the job of a workload, the same one each time.

    Args:
        workload: Its name, a key of ``JOBS``.
        scale: The size of the data, as a fraction of the full one.
    """
    torch.manual_seed(0)
    return JOBS[workload](scale)


# --- the workloads -------------------------------------------------------------------------------


def _arrays(scale: float) -> Job:
    x, y = _points(_sized(50_000, scale))
    return Job(_mlp(), CLASSES, x, y, epochs=3)


def _ready(scale: float) -> Job:
    return Job(_mlp(), CLASSES, batches=Ready(_cut(*_points(32 * _sized(2000, scale)), 32)))


def _images(scale: float) -> Job:
    count = 64 * _sized(128, scale)
    patterns = torch.randn(CLASSES, 1, 28, 28)
    y = torch.randint(0, CLASSES, (count,))
    x = 0.35 * patterns[y] + torch.randn(count, 1, 28, 28)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )
    return Job(network, CLASSES, x, y, optimizer="adam", lr=1e-3, batch_size=64)


def _scoring(scale: float) -> Job:
    x, y = _points(_sized(200_000, scale))
    return Job(_mlp(), CLASSES, x, y, batch_size=256)


def _texts(scale: float) -> Job:
    count = 16 * _sized(12, scale)
    sizes = torch.empty(count).log_normal_(3.4, 0.65).long().clamp(SHORTEST, LONGEST)
    classes = torch.randint(0, 2, (count,))
    texts = []
    for size, kind in zip(sizes.tolist(), classes.tolist(), strict=True):
        text = torch.randint(10, VOCABULARY, (size,))
        text[: size // 2] = kind + 1  # what tells the classes apart
        texts.append(text)
    examples = Examples(texts, classes.tolist())
    job = Job(TextClassifier(), 2, examples=examples, optimizer="adamw", lr=1e-4, batch_size=16)
    return replace(job, fused=True)


def _start(scale: float) -> Job:
    x, y = _points(320)
    return Job(_mlp(), CLASSES, x, y)


def _reads(scale: float) -> Job:
    steps = 384  # a count: the same at any scale
    batches = _cut(*_points(32 * 2 * steps), 32)
    return Job(_mlp(), CLASSES, batches=Ready(batches[:steps]), valid=Ready(batches[steps:]))


def _long(scale: float) -> Job:
    steps = _sized(200_000, scale)
    batches = [(torch.randn(4, 4), torch.randint(0, 2, (4,))) for _ in range(steps // 100)]
    return Job(nn.Linear(4, 2), 2, batches=Ready(batches, 100), batch_size=4, lr=0.01)


JOBS: dict[str, Callable[[float], Job]] = {
    "arrays": _arrays,
    "batches": _ready,
    "images": _images,
    "scoring": _scoring,
    "texts": _texts,
    "start": _start,
    "reads": _reads,
    "long": _long,
}


class Own(nn.Module):
    """The tiny network, in a class as people write them."""

    def __init__(self, hidden: nn.Module, activation: nn.Module, scores: nn.Module) -> None:
        super().__init__()
        self.hidden = hidden
        self.activation = activation
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, shape (N, C), of features, shape (N, D)."""
        scores: Tensor = self.scores(self.activation(self.hidden(x)))
        return scores


class TextClassifier(nn.Module):
    """A small BERT with random weights; token number 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=1024,
            max_position_embeddings=LONGEST,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=2,
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores, shape (N, 2), of token numbers, shape (N, T)."""
        scores: Tensor = self.bert(tokens, attention_mask=(tokens != 0).long()).logits
        return scores


def _sized(count: int, scale: float) -> int:
    return max(4, round(count * scale))


def _points(count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, FEATURES)
    return x, (x @ torch.randn(FEATURES, CLASSES)).argmax(1)


def _cut(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(a.clone(), b.clone()) for a, b in zip(x.split(size), y.split(size), strict=True)]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, CLASSES))
