"""What metrics ask about shapes and labels."""

import numpy as np
import pytest
import torch

from clarion.metrics.shapes import best_class

SHAPES = [(4, 3), (300, 10), (0, 3), (5, 1), (2, 4, 3), (8, 21, 16, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_the_best_class_is_the_first_of_the_highest(shape, dtype):
    torch.manual_seed(0)
    scores = torch.randint(0, 4, shape).to(dtype)
    assert np.array_equal(best_class(scores).numpy(), scores.float().numpy().argmax(1))


@pytest.mark.parametrize("rows", [3, 3000])
def test_a_score_that_is_nan_is_the_best(rows):
    scores = torch.arange(3.0).repeat(rows, 1)
    scores[:, 1] = torch.nan
    assert best_class(scores).eq(1).all()
