import os
import subprocess
import sys
from unittest.mock import MagicMock, call

import mlflow
import pytest

from clarion.errors import InvalidArgumentError, MissingDependencyError
from clarion.loggers import mlflow as module
from clarion.loggers.mlflow import MLFlowLogger


@pytest.fixture(autouse=True)
def no_git(monkeypatch):
    monkeypatch.setattr(module, "_git_commit", lambda directory: None)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return str(tmp_path / "mlruns")


@pytest.fixture
def client(store):
    return mlflow.MlflowClient(tracking_uri=store)


def curve(client, run_id, name):
    return [(each.step, each.value) for each in client.get_metric_history(run_id, name)]


def test_a_training_is_a_run_with_its_results(store, client, make_model, batches):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    history = make_model(batch_metrics=["l1"]).fit_generator(
        batches, batches, epochs=3, verbose=False, callbacks=[logger]
    )
    run = client.get_run(logger.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "lines"
    assert run.info.status == "FINISHED"
    names = {"time", "loss", "l1", "val_loss", "val_l1"}
    assert run.data.metrics.keys() == {*names, "last-epoch"}
    for name in names:
        expected = [(log["epoch"], pytest.approx(log[name])) for log in history]
        assert curve(client, logger.run_id, name) == expected
    assert run.data.metrics["last-epoch"] == 3


def test_batches_are_steps_too(store, client, make_model, batches):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store, batch_granularity=True)
    make_model().fit_generator(batches, epochs=2, verbose=False, callbacks=[logger])
    assert curve(client, logger.run_id, "size") == [(n, 5) for n in (1, 2, 3, 4)] * 2
    assert sorted(step for step, _ in curve(client, logger.run_id, "loss")) == sorted(
        [1, 2, 3, 4] * 2 + [1, 2]
    )


def test_the_last_epoch_is_the_last_that_was_trained(store, client, make_model, batches):
    from clarion.callbacks.base import Callback

    class Enough(Callback):
        def on_epoch_end(self, epoch_number, logs):
            self.model.stop_training = epoch_number == 2

    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    make_model().fit_generator(batches, epochs=9, verbose=False, callbacks=[logger, Enough()])
    assert client.get_run(logger.run_id).data.metrics["last-epoch"] == 2


def test_without_an_epoch_the_last_one_is_the_planned_one(store, client):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    logger.set_params({"epochs": 7})
    logger.on_train_end({})
    assert client.get_run(logger.run_id).data.metrics["last-epoch"] == 7


def test_an_evaluation_adds_the_test_results(store, client, make_model, batches):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    status = []

    class Watching(MagicMock):
        pass

    def on_test_batch_end(number, logs):
        status.append(client.get_run(logger.run_id).info.status)

    from clarion.callbacks.base import Callback

    watcher = Callback()
    watcher.on_test_batch_end = on_test_batch_end
    logs = make_model().evaluate_generator(
        batches, verbose=False, return_dict_format=True, callbacks=[logger, watcher]
    )
    run = client.get_run(logger.run_id)
    assert status == ["FAILED"] * 4, "a kill would leave a run that looks finished"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(logs)


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_error_ends_the_run(error, status, store, client, make_model, batches, bomb):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    with pytest.raises(type(error)):
        make_model().fit_generator(
            batches, epochs=2, verbose=False, callbacks=[logger, bomb(6, error)]
        )
    assert client.get_run(logger.run_id).info.status == status
    assert [step for step, _ in curve(client, logger.run_id, "loss")] == [1]


def test_the_run_can_be_left_open(store, client, make_model, batches):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store, terminate_on_end=False)
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    assert client.get_run(logger.run_id).info.status == "RUNNING"


def test_settings(store, client):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    logger.log_config_params(
        {"optimizer": {"name": "sgd", "betas": (0.9, 0.99)}, "layers": [16, {"size": 8}], "n": 3}
    )
    logger.log_param("seed", 42)
    logger.log_params({"a": 1, "b": {"c": 2}})
    assert client.get_run(logger.run_id).data.params == {
        "optimizer.name": "sgd",
        "optimizer.betas.0": "0.9",
        "optimizer.betas.1": "0.99",
        "layers.0": "16",
        "layers.1.size": "8",
        "n": "3",
        "seed": "42",
        "a": "1",
        "b": "{'c': 2}",
    }


def test_results_of_ones_own(store, client):
    logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    logger.log_metric("score", 0.5)
    logger.log_metric("score", 0.75, step=4)
    logger.log_metrics({"a": 1.0, "b": 2.0}, step=3)
    assert curve(client, logger.run_id, "score") == [(0, 0.5), (4, 0.75)]
    assert curve(client, logger.run_id, "b") == [(3, 2.0)]


def test_an_experiment_is_used_again_by_name_or_id(store, client):
    first = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    second = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    experiment = client.get_run(first.run_id).info.experiment_id
    third = MLFlowLogger(experiment_id=experiment, tracking_uri=store)
    runs = {logger.run_id for logger in (first, second, third)}
    assert {run.info.run_id for run in client.search_runs([experiment])} == runs


def test_a_run_is_used_again_by_its_id(store, client):
    first = MLFlowLogger(experiment_name="lines", tracking_uri=store)
    second = MLFlowLogger(run_id=first.run_id, tracking_uri=store)
    second.log_param("a", 1)
    assert second.run_id == first.run_id
    assert client.get_run(first.run_id).data.params == {"a": "1"}


def test_without_a_name_it_is_the_default_experiment(store, client):
    logger = MLFlowLogger(tracking_uri=store)
    experiment = client.get_run(logger.run_id).info.experiment_id
    assert client.get_experiment(experiment).name == "Default"


@pytest.mark.parametrize(
    "given",
    [
        {"experiment_name": "a", "experiment_id": "1"},
        {"experiment_name": "a", "run_id": "1"},
        {"experiment_id": "1", "run_id": "1"},
    ],
)
def test_too_many_names_are_an_error(given):
    with pytest.raises(InvalidArgumentError, match=" and ".join(given)):
        MLFlowLogger(**given)


def test_an_experiment_that_cannot_be_made_is_mlflows_error(monkeypatch):
    from mlflow.exceptions import MlflowException

    client = MagicMock()
    client.return_value.create_experiment.side_effect = MlflowException("no server")
    client.return_value.get_experiment_by_name.return_value = None
    monkeypatch.setattr(mlflow, "MlflowClient", client)
    with pytest.raises(MlflowException, match="no server"):
        MLFlowLogger(experiment_name="lines")


def test_the_calls_of_the_client(monkeypatch):
    client = MagicMock()
    client.return_value.create_run.return_value.info.run_id = "101"
    client.return_value.create_experiment.return_value = "7"
    monkeypatch.setattr(mlflow, "MlflowClient", client)
    logger = MLFlowLogger(experiment_name="lines", tracking_uri="http://127.0.0.1:1")
    logger.log_param("a", 1)
    logger.log_metric("b", 2.0, step=3)
    assert client.mock_calls == [
        call(tracking_uri="http://127.0.0.1:1"),
        call().create_experiment("lines"),
        call().create_run(experiment_id="7"),
        call().log_param(run_id="101", key="a", value=1),
        call().log_metric(run_id="101", key="b", value=2.0, step=3),
    ]


def test_other_ranks_send_nothing(monkeypatch, make_model, batches):
    monkeypatch.setenv("RANK", "1")
    client = MagicMock()
    monkeypatch.setattr(mlflow, "MlflowClient", client)
    logger = MLFlowLogger(experiment_name="lines", batch_granularity=True)
    model = make_model()
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    model.evaluate_generator(batches, verbose=False, callbacks=[logger])
    logger.log_config_params({"a": 1})
    assert logger.run_id is None
    assert client.mock_calls == []


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "clarion\[mlflow\]"'):
        MLFlowLogger(experiment_name="lines")


class TestGitCommit:
    """The function as it is, the fixture above notwithstanding."""

    @pytest.fixture(autouse=True)
    def no_git(self):
        pytest.importorskip("git")

    @pytest.fixture
    def repository(self, tmp_path, monkeypatch):
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            monkeypatch.delenv(name)
        directory = tmp_path / "repository"
        subprocess.run(["git", "init", "-q", str(directory)], check=True)
        return directory

    def commit(self, directory):
        options = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(directory), *options]
        subprocess.run([*command, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
        head = subprocess.run(
            ["git", "-C", str(directory), "rev-parse", "HEAD"],
            check=True,
            capture_output=True,
            text=True,
        )
        return head.stdout.strip()

    def test_it_tags_the_run(self, repository, store, client, monkeypatch):
        commit = self.commit(repository)
        (repository / "inside").mkdir()
        monkeypatch.chdir(repository / "inside")
        logger = MLFlowLogger(experiment_name="lines", tracking_uri=store)
        assert client.get_run(logger.run_id).data.tags["mlflow.source.git.commit"] == commit

    @pytest.mark.parametrize("where", ["repository without commit", "no repository", "nowhere"])
    def test_without_one_there_is_a_warning(self, where, repository, tmp_path):
        directory = {"repository without commit": repository, "no repository": tmp_path}.get(
            where, tmp_path / "gone"
        )
        with pytest.warns(UserWarning, match="found no git commit"):
            assert module._git_commit(str(directory)) is None

    def test_without_the_package_there_is_a_warning(self, repository, monkeypatch):
        monkeypatch.setitem(sys.modules, "git", None)
        with pytest.warns(UserWarning, match="found no git commit"):
            assert module._git_commit(str(repository)) is None
