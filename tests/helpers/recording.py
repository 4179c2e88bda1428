"""Iterables that count what is asked of them."""


class Recorder:
    """An iterable that counts what is asked of it."""

    def __init__(self, batches):
        self.batches = batches
        self.iters = self.nexts = 0

    def __iter__(self):
        self.iters += 1
        return Iterator(self)


class Iterator:
    def __init__(self, recorder):
        self.recorder = recorder
        self.left = list(recorder.batches)

    def __iter__(self):
        return self

    def __next__(self):
        self.recorder.nexts += 1
        if not self.left:
            raise StopIteration
        return self.left.pop(0)
