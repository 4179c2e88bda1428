"""What can be chosen on the command line."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from clarion.errors import InvalidArgumentError

from .report import write_json

__all__ = ["Settings", "from_command_line"]


@dataclass(frozen=True)
class Settings:
    """Teach an encoder to put the shuffled sentences of a short text into their true order.

    Running the same line again goes on from the last checkpoint of the directory.

    Args:
        directory: Where checkpoints, logs, figures and results go.
        file: A JSON Lines file of texts, each line a list of sentences in their true order. Left
            out, the texts are the recipes of Wikibooks and the lead sections of Wikipedia that
            two packages carry.
        model: A directory, or a name on the Hugging Face hub, of a pretrained encoder. Left out,
            it is the MiniLM encoder that a package carries.
        texts: How many shuffled texts to train on, rounded up to whole epochs. Beyond the size of
            the corpus, texts come again in another order.
        shortest: The fewest sentences of a text.
        longest: The most sentences of a text.
        sentence_tokens: The most tokens of a sentence; the rest of it is cut off.
        text_tokens: The most tokens of a text; the rest of it is cut off.
        fresh_marker: Whether the embedding of the marker before each sentence starts afresh. In
            MiniLM all markers of a text come out identical, whatever stands behind them, so that
            every sentence gets the same logit and nothing is ever learnt; a random embedding
            breaks this at once. Other encoders may do without.
        batch_size: Texts in a batch.
        lr: The highest learning rate. It rises to this linearly and falls to 0 linearly.
        warmup: The share of the steps in which it rises.
        weight_decay: How strongly AdamW pulls the weights towards 0.
        clip_norm: The largest norm of the gradient; larger ones are scaled down to it.
        precision: The arithmetic; "auto" takes bfloat16 where the device computes in it.
        steps_per_epoch: About how many optimizer steps make an epoch. After each one the network
            is validated and a checkpoint is written, at which a killed training goes on.
        seed: What all random choices follow from, but for the split of the documents.
        shown: How many ordered texts to print in words.
    """

    directory: Path = Path("runs/sentence_ordering")
    file: Path | None = None
    model: str | None = None
    texts: int = 3600
    shortest: int = 4
    longest: int = 8
    sentence_tokens: int = 40
    text_tokens: int = 512
    fresh_marker: bool = True
    batch_size: int = 8
    lr: float = 2e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: Literal["auto", "32", "bf16-mixed"] = "auto"
    steps_per_epoch: int = 150
    seed: int = 42
    shown: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work.

        Raises:
            InvalidArgumentError: If one is out of its range.
        """
        least = {
            "texts": 1,
            "shortest": 2,
            "longest": self.shortest,
            "sentence_tokens": 2,
            "text_tokens": 3,
            "batch_size": 1,
            "steps_per_epoch": 1,
            "shown": 0,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise InvalidArgumentError(
                    f"--{name} is {getattr(self, name)}; it must be at least {minimum}."
                )
        if not 0 <= self.warmup < 1:
            raise InvalidArgumentError(f"--warmup is {self.warmup}; it is a share from 0 to 1.")

    @property
    def epochs(self) -> int:
        """The number of epochs that the texts are cut into."""
        return max(1, round(self.texts / (self.batch_size * self.steps_per_epoch)))

    @property
    def steps(self) -> int:
        """The number of optimizer steps in each epoch."""
        return -(-self.texts // (self.batch_size * self.epochs))

    def claim_directory(self) -> None:
        """Write the settings into the directory, or see that it holds a run of the same ones.

        Raises:
            InvalidArgumentError: If the directory holds a run of other settings.
        """
        free = {"directory", "shown"}
        own = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        path = self.directory / "settings.json"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(path, own)
            return
        held, own = json.loads(path.read_text()), json.loads(json.dumps(own, default=str))
        other = [f"--{k} {held.get(k)} (now {v})" for k, v in own.items() if held.get(k) != v]
        if other:
            raise InvalidArgumentError(
                f"{self.directory} holds a run with {', '.join(other)}. Choose another "
                "--directory, give the same arguments to go on, or remove it."
            )


def from_command_line(arguments: Sequence[str] | None = None) -> Settings:
    """Return the settings that the command line asks for; ``--help`` explains them.

    Args:
        arguments: The arguments; those of this process if None.
    """
    parser = ArgumentParser(description=str(Settings.__doc__).split("\n\n    Args:")[0])
    parser.add_argument("--config", action="config", help="A YAML file of these arguments.")
    parser.add_class_arguments(Settings)
    chosen = parser.parse_args(arguments).as_dict()
    chosen.pop("config")
    return Settings(**chosen)
