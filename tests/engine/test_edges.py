"""What happens between two optimizer steps."""

import pytest
import torch
from torch import nn

from clarion import Callback, Model
from clarion.engine.edges import EdgeCallback, edge_of


class Listener(EdgeCallback):
    def __init__(self, name="", seen=None):
        self.name = name
        self.seen = [] if seen is None else seen

    def on_train_batch_end(self, batch_number, logs):
        self.seen.append(("batch", batch_number))

    def on_optimizer_step_end(self, step):
        self.seen.append(("step", step))

    def at_edge(self, number):
        progress = self.model.progress
        self.seen.append((f"edge{self.name}", number, progress.batch, progress.step))


def trained(*callbacks, epochs=1, batches=5, **options):
    torch.manual_seed(0)
    model = Model(nn.Linear(2, 1), "sgd", "mse")
    x = torch.randn(batches * 2, 2)
    data = [(x[i : i + 2], x[i : i + 2, :1]) for i in range(0, len(x), 2)]
    options = {"verbose": False, "epochs": epochs, **options}
    model.fit_generator(data, data, callbacks=list(callbacks), **options)
    return model


class TestAtEdge:
    def test_is_reached_after_every_hook_of_the_batch_that_closed_a_step(self):
        listener = Listener()
        trained(listener, batches=2)
        assert listener.seen == [
            ("step", 1),
            ("batch", 1),
            ("edge", 1, 1, 1),
            ("step", 2),
            ("batch", 2),
            ("edge", 2, 2, 2),
        ]

    def test_is_not_reached_inside_an_accumulated_step(self):
        listener = Listener()
        trained(listener, epochs=2, batches_per_step=2)
        edges = [one[1:] for one in listener.seen if one[0] == "edge"]
        assert edges == [(2, 2, 1), (4, 4, 2), (5, 5, 3), (2, 2, 4), (4, 4, 5), (5, 5, 6)]

    def test_is_reached_before_the_next_batch_is_asked_for(self):
        asked = []
        edges = []

        class Edges(EdgeCallback):
            def at_edge(self, number):
                edges.append((number, len(asked)))

        def batches():
            for i in range(5):
                asked.append(i)
                yield torch.ones(2, 2), torch.ones(2, 1)

        model = Model(nn.Linear(2, 1), "sgd", "mse")
        options = {"epochs": 1, "verbose": False, "validate_every": 1}
        valid = [(torch.ones(2, 2), torch.ones(2, 1))]
        model.fit_generator(
            batches(), valid, callbacks=[Edges()], steps_per_epoch=5, batches_per_step=2, **options
        )
        assert edges == [(2, 2), (4, 4), (5, 5)]

    def test_is_called_in_the_order_of_the_callbacks(self):
        seen = []
        trained(Listener("a", seen), Listener("b", seen), batches=1)
        assert [one[0] for one in seen if one[0].startswith("edge")] == ["edgea", "edgeb"]

    def test_is_not_for_evaluations(self):
        listener = Listener()
        model = trained(batches=1)
        model.evaluate(torch.ones(2, 2), torch.ones(2, 1), callbacks=[listener], verbose=False)
        assert listener.seen == []


class TestEdgeOf:
    def test_gives_nothing_for_callbacks_that_have_no_edge(self):
        assert edge_of([Callback(), object()]) is None

    def test_needs_the_method(self):
        with pytest.raises(TypeError, match="at_edge"):
            EdgeCallback()
