import json
import os
import struct
import sys
import time
from pathlib import Path
from unittest.mock import ANY, MagicMock, call

import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

from clarion.errors import MissingDependencyError, MissingFileError
from clarion.loggers.wandb import WandBLogger


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Let nothing leave the machine or the temporary directory; wandb reads this only once."""
    places = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    values = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    values |= dict.fromkeys(places, str(tmp_path_factory.mktemp("wandb")))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, value)
        yield
        wandb.teardown()


@pytest.fixture
def directory(offline, tmp_path):
    """Where the runs are written; none stays open."""
    yield tmp_path
    wandb.finish()


@pytest.fixture
def fake(monkeypatch):
    """The module wandb, with everything in it faked."""
    module = MagicMock()
    module.run = None
    module.init.return_value = MagicMock(spec=wandb.Run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def records(data):
    """Read a file of wandb's, as far as it is written: LevelDB's log format around messages."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # the rest of a block is padding
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        if kind == 0 or position + 7 + length > len(data):  # wandb is still writing it
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def finished(directory):
    """End the one run and return its records; wandb goes on writing them for a moment."""
    wandb.finish()
    (path,) = Path(directory).glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(500):
        found = list(records(path.read_bytes()))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.01)
    raise TimeoutError("wandb did not end its file")


def written(directory):
    """Return (history rows without wandb's own keys, config, run) of the one run on disk."""
    rows, config, run = [], {}, None
    for record in finished(directory):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {}
            for item in record.history.item:
                keys = list(item.nested_key) or [item.key]
                if not keys[0].startswith("_") or keys == ["_step"]:
                    row[".".join(keys)] = json.loads(item.value_json)
            rows.append(row)
        elif kind in ("config", "run"):
            update = record.config if kind == "config" else record.run.config
            config |= {item.key: json.loads(item.value_json) for item in update.update}
            run = record.run if kind == "run" else run
    return rows, config, run


def test_epochs_are_steps(directory, make_model, batches):
    logger = WandBLogger(
        name="a run", project="lines", save_dir=directory, group="tests", config={"seed": 42}
    )
    logger.log_config_params({"lr": 0.001})
    history = make_model(batch_metrics=["l1"]).fit_generator(
        batches, batches, epochs=2, verbose=False, callbacks=[logger]
    )
    run_id = logger.run.id
    rows, config, run = written(directory)
    flat = [
        {
            "_step": log["epoch"],
            **{f"training.{key}": log[key] for key in ("epoch", "time", "loss", "l1")},
            **{f"validation.{key}": log[f"val_{key}"] for key in ("loss", "l1")},
            "params.lr": 0.001,
        }
        for log in history
    ]
    assert [flatten(row) for row in rows] == [pytest.approx(row) for row in flat]
    assert config.items() >= {"seed": 42, "lr": 0.001, "run_id": run_id}.items()
    assert (run.display_name, run.project, run.run_group) == ("a run", "lines", "tests")


def flatten(values, prefix=""):
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def test_batches_come_before_their_epoch(directory, make_model, batches, recorder):
    logger = WandBLogger(project="lines", save_dir=directory, batch_granularity=True)
    make_model().fit_generator(
        batches, batches, epochs=2, verbose=False, callbacks=[logger, recorder]
    )
    rows = [flatten(row) for row in written(directory)[0]]
    expected = []
    for log in recorder.logs:
        if "batch" in log:
            expected.append({f"training.batch.{key}": value for key, value in log.items()})
        else:
            train = {key: value for key, value in log.items() if not key.startswith("val_")}
            expected.append({f"training.epoch.{key}": value for key, value in train.items()})
            expected.append({"validation.epoch.loss": log["val_loss"]})
            expected.append({"params.lr": 0.001})
    assert rows == [
        pytest.approx({**values, "_step": step}) for step, values in enumerate(expected)
    ]


def test_an_evaluation_is_one_step_more(directory, make_model, batches):
    logger, model = WandBLogger(project="lines", save_dir=directory), make_model()
    model.fit_generator(batches, epochs=2, verbose=False, callbacks=[logger])
    logs = model.evaluate_generator(
        batches, verbose=False, return_dict_format=True, callbacks=[logger]
    )
    rows = [flatten(row) for row in written(directory)[0]]
    assert [row["_step"] for row in rows] == [1, 2, 3]
    assert rows[-1] == pytest.approx(
        {"_step": 3, "testing.time": logs["time"], "testing.loss": logs["test_loss"]}
    )


def test_artifacts_are_saved(directory, make_model, batches):
    (directory / "data.txt").write_text("data")
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "last.ckpt").write_text("weights")
    logger = WandBLogger(
        project="lines",
        save_dir=directory,
        initial_artifacts_paths=[directory / "data.txt"],
        checkpoints_path=str(directory / "checkpoints"),
    )
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    artifacts = {
        record.artifact.name: [entry.path for entry in record.artifact.manifest.contents]
        for record in finished(directory)
        if record.WhichOneof("record_type") == "artifact"
    }
    assert artifacts == {"Initial-artifacts": ["data.txt"], "Checkpoints": ["last.ckpt"]}


def test_gradients_are_watched(directory, make_model, batches):
    logger = WandBLogger(project="lines", save_dir=directory, log_gradient_frequency=2)
    make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    keys = {key for row in written(directory)[0] for key in row}
    assert {"gradients/0.weight.bins", "parameters/1.bias.bins"} <= keys


def test_half_a_file_is_read_as_far_as_it_goes(directory):
    run = wandb.init(project="lines", dir=directory)
    run.log({"text": "a" * 70_000})  # more than two blocks
    whole = finished(directory)
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    for end in (*range(0, len(data), 97), *range(len(data) - 100, len(data))):
        found = list(records(data[:end]))
        assert found == whole[: len(found)]
        assert len(found) < len(whole)


def test_an_open_run_is_used(directory):
    run = wandb.init(project="lines", dir=directory)
    with pytest.warns(UserWarning, match="goes on with the run that is open"):
        logger = WandBLogger(name="other")
    assert logger.run is run


def test_a_run_of_ones_own_is_used(directory):
    run = wandb.init(project="lines", dir=directory)
    assert WandBLogger(experiment=run).run is run
    assert run.config["run_id"] == run.id


def test_an_error_leaves_the_run_open(directory, make_model, batches, bomb):
    logger = WandBLogger(project="lines", save_dir=directory)
    with pytest.raises(RuntimeError, match="boom"):
        make_model().fit_generator(batches, epochs=3, verbose=False, callbacks=[logger, bomb(6)])
    logger.run.log({"after": 1})
    (row,) = written(directory)[0]
    assert (row["training.epoch"], row["after"]) == (1, 1)


# --- what wandb is called with ---------------------------------------------------------------


@pytest.mark.parametrize("offline", [False, True])
def test_the_call_of_init(offline, fake, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    WandBLogger(
        name="a", group="b", config={"c": 1}, project="d", run_id="e", save_dir="f",
        anonymous=True, offline=offline,
    )  # fmt: skip
    assert fake.init.mock_calls[0] == call(
        name="a", group="b", config={"c": 1}, project="d", id="e", dir="f", resume="allow",
        anonymous="allow",
    )  # fmt: skip
    assert os.environ.get("WANDB_MODE") == ("dryrun" if offline else None)
    monkeypatch.delenv("WANDB_MODE", raising=False)


def test_the_version_goes_before_the_run_id(fake):
    WandBLogger(version="v", run_id="r")
    assert fake.init.call_args.kwargs["id"] == "v"
    assert fake.init.call_args.kwargs["anonymous"] is None


def test_the_calls_of_log(fake, make_model, batches):
    logger = WandBLogger()
    (log,) = make_model().fit_generator(
        batches, batches, epochs=1, verbose=False, callbacks=[logger]
    )
    train = {key: log[key] for key in ("epoch", "time", "loss")}
    assert logger.run.log.mock_calls == [
        call({"training": train}, step=1),
        call({"validation": {"loss": log["val_loss"]}}, step=1),
        call({"params": {"lr": 0.001}}, step=1),
    ]
    logger.run.watch.assert_not_called()


def test_names_lose_their_prefix_only(fake):
    logger = WandBLogger(batch_granularity=True)
    logger.on_test_end({"time": 1.0, "test_contest_score": 2.0})
    logger.run.log.assert_called_once_with({"testing": {"time": 1.0, "contest_score": 2.0}})


def test_the_network_is_exported(fake, make_model, batches, monkeypatch):
    exported = []
    monkeypatch.setattr(torch.onnx, "export", lambda *args: exported.append(args))
    logger = WandBLogger(training_batch_shape=(3, 1))
    logger.run.dir, logger.run.name = "somewhere", "name"
    model = make_model()
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    ((network, batch, path),) = exported
    assert network is model.network
    assert batch.shape == (3, 1)
    assert path == "somewhere/name_model.onnx"
    logger.run.save.assert_called_once_with(path)


def test_without_the_packages_for_onnx_there_is_a_warning(fake, make_model, batches, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    logger = WandBLogger(training_batch_shape=(3, 1))
    with pytest.warns(UserWarning, match="pip install onnx onnxscript"):
        make_model().fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    logger.run.save.assert_not_called()


def test_the_export_draws_no_random_numbers(fake, make_model, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *args: torch.rand(3))
    logger = WandBLogger(training_batch_shape=(3, 1))
    logger.set_model(make_model())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    logger.on_train_begin({})
    assert torch.equal(torch.get_rng_state(), before)


def test_files_and_directories_become_artifacts(fake, tmp_path):
    (tmp_path / "file").write_text("")
    logger = WandBLogger(initial_artifacts_paths=[tmp_path / "file", str(tmp_path)])
    assert fake.Artifact.mock_calls == [
        call(name="Initial-artifacts", type="Miscellaneous"),
        call().add_file(str(tmp_path / "file")),
        call().add_dir(str(tmp_path)),
    ]
    logger.run.log_artifact.assert_called_once_with(fake.Artifact.return_value)


def test_an_artifact_that_does_not_exist_is_an_error(fake, tmp_path):
    with pytest.raises(MissingFileError, match=r"cannot save .*gone in the artifact"):
        WandBLogger(initial_artifacts_paths=[tmp_path / "gone"])
    assert issubclass(MissingFileError, FileNotFoundError)


def test_other_ranks_have_a_run_that_does_nothing(fake, make_model, batches, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    logger = WandBLogger(name="a", checkpoints_path="gone", initial_artifacts_paths=["gone"])
    assert fake.init.mock_calls[0] == call(mode="disabled")
    model = make_model()
    model.fit_generator(batches, epochs=1, verbose=False, callbacks=[logger])
    model.evaluate_generator(batches, verbose=False, callbacks=[logger])
    assert logger.run.method_calls == [call.config.update({"run_id": ANY})]


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "clarion\[wandb\]"'):
        WandBLogger()
