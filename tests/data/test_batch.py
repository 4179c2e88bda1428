"""What a step sees of a batch."""

from clarion import Batch


def test_inputs_are_the_only_argument_or_all_of_them_or_the_keywords():
    assert Batch((1,)).inputs == 1
    assert Batch((1, 2)).inputs == (1, 2)
    assert Batch(kwargs={"a": 1}).inputs == {"a": 1}


def test_a_batch_alone_is_a_whole_step():
    batch = Batch((1,))

    assert (batch.share, batch.opens_step, batch.closes_step) == (1.0, True, True)
