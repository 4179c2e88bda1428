from unittest.mock import MagicMock, call

import pytest

from clarion.errors import InvalidArgumentError
from clarion.loggers.notification import NotificationCallback, Notificator


def lines(logs):
    return " ".join(f"{name}: {value}\n" for name, value in logs.items())


@pytest.mark.parametrize(("name", "suffix"), [(None, ""), ("a run", " for a run")])
def test_the_messages_of_a_training(name, suffix, make_model, batches):
    notificator = MagicMock()
    callback = NotificationCallback(notificator=notificator, experiment_name=name)
    history = make_model(batch_metrics=["l1"]).fit_generator(
        batches, batches, epochs=2, verbose=False, callbacks=[callback]
    )
    assert notificator.method_calls == [
        call.send_notification("", subject=f"Start of the training{suffix}."),
        *[
            call.send_notification(
                f"Here the epoch metrics: \n{lines(log)}",
                subject=f"Epoch {log['epoch']} is done{suffix}.",
            )
            for log in history
        ],
        call.send_notification("", subject=f"End of the training{suffix}."),
    ]


@pytest.mark.parametrize(("name", "suffix"), [(None, ""), ("a run", " for a run")])
def test_the_messages_of_an_evaluation(name, suffix, make_model, batches):
    notificator = MagicMock()
    callback = NotificationCallback(notificator, experiment_name=name)
    logs = make_model().evaluate_generator(
        batches, verbose=False, return_dict_format=True, callbacks=[callback]
    )
    assert notificator.method_calls == [
        call.send_notification("", subject=f"Start of the testing{suffix}."),
        call.send_notification(
            f"Here the test metrics: \n{lines(logs)}", subject=f"End of the testing{suffix}."
        ),
    ]


def test_the_exact_text():
    notificator = MagicMock()
    NotificationCallback(notificator).on_epoch_end(3, {"epoch": 3, "time": 0.5, "loss": 1.25})
    notificator.send_notification.assert_called_once_with(
        "Here the epoch metrics: \nepoch: 3\n time: 0.5\n loss: 1.25\n", subject="Epoch 3 is done."
    )


def test_not_every_epoch():
    notificator = MagicMock()
    callback = NotificationCallback(notificator, alert_frequency=3)
    for epoch in range(1, 8):
        callback.on_epoch_end(epoch, {})
    subjects = [each.kwargs["subject"] for each in notificator.send_notification.mock_calls]
    assert subjects == ["Epoch 3 is done.", "Epoch 6 is done."]


def test_a_frequency_below_one_is_an_error():
    with pytest.raises(InvalidArgumentError, match="alert_frequency=0"):
        NotificationCallback(MagicMock(), alert_frequency=0)


def test_other_ranks_are_silent(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    notificator = MagicMock()
    NotificationCallback(notificator).on_train_begin({})
    notificator.send_notification.assert_not_called()


def test_a_notificator_must_say_how_it_sends():
    class Mute(Notificator):
        pass

    with pytest.raises(TypeError, match="send_notification"):
        Mute()


def test_a_notificator_of_ones_own(make_model, batches):
    class Mailbox(Notificator):
        def __init__(self):
            self.subjects = []

        def send_notification(self, message, *, subject=None):
            self.subjects.append(subject)

    mailbox = Mailbox()
    make_model().fit_generator(
        batches, epochs=1, verbose=False, callbacks=[NotificationCallback(mailbox)]
    )
    assert mailbox.subjects == [
        "Start of the training.", "Epoch 1 is done.", "End of the training."
    ]  # fmt: skip
