"""What happens between two optimizer steps."""

import pytest
import torch
from torch import nn

from clarion import Callback, Model
from clarion.engine import edges as module
from clarion.engine.edges import EdgeCallback, Interval, edge_of
from clarion.errors import InvalidArgumentError


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


class TestInterval:
    def test_counts_optimizer_steps_of_the_whole_training(self):
        interval = Interval("every", 3)
        assert [step for step in range(1, 10) if interval.is_due(step)] == [3, 6, 9]

    @pytest.mark.parametrize("every", ["2s", 2.0])
    def test_counts_time_since_the_last_one(self, every, monkeypatch):
        now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: now)
        interval = Interval("every", every)
        now = 101.9
        assert not interval.is_due(1)
        now = 102.0
        assert interval.is_due(2)
        interval.restart()
        assert not interval.is_due(3)

    def test_may_be_never(self):
        assert not any(Interval("every", None).is_due(step) for step in range(5))

    @pytest.mark.parametrize("every", [0, -1, True, "soon", -2.0])
    def test_refuses_what_is_no_span(self, every):
        with pytest.raises(InvalidArgumentError, match="every"):
            Interval("every", every)


def test_a_model_alone_has_no_directory_for_checkpoints():
    with pytest.raises(InvalidArgumentError, match=r"checkpoint_every=5 needs .*Experiment\("):
        trained(checkpoint_every=5)
