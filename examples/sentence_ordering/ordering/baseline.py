"""What can be had without reading a text as a whole: each sentence is placed by its words alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clarion.metrics.names import get_names_of_metric, names_as_list

from .corpus import Text
from .scoring import IGNORED, metrics, ordering_loss

__all__ = ["lexical_baseline"]


def lexical_baseline(train: Sequence[Text], test: Sequence[Text]) -> dict[str, float]:
    """Return the results of a ridge regression from words and word pairs to a sentence's place.

    Args:
        train: The texts that words are counted in.
        test: The texts that are ordered.

    Returns:
        ``loss`` and the metrics by name.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    words = vectorizer.fit_transform([s for text in train for s in text.sentences])
    # The place relative to the last one is what a sentence alone can tell best (tau 0.54; 0.52
    # for the place itself); the length of the text then makes a place of it.
    ridge = Ridge(solver="sparse_cg")
    ridge.fit(words, torch.cat([torch.linspace(0, 1, len(text.sentences)) for text in train]))
    predicted = ridge.predict(vectorizer.transform([s for t in test for s in t.sentences]))
    lengths = [len(text.sentences) for text in test]
    rows = torch.as_tensor(predicted).split(lengths)
    scaled = [row * (len(row) - 1) for row in rows]
    return _results(pad_sequence(scaled, batch_first=True)[..., None], _places(lengths))


def _places(lengths: Sequence[int]) -> Tensor:
    rows = [torch.arange(length) for length in lengths]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def _results(logits: Tensor, places: Tensor) -> dict[str, float]:
    results = {"loss": ordering_loss(logits, places).item()}
    for metric in metrics():
        metric.update(logits, places)
        names, _ = get_names_of_metric(metric)
        values = metric.compute().reshape(-1).tolist()
        results |= dict(zip(names_as_list(names), values, strict=True))
    return results
