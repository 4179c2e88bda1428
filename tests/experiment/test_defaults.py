import pytest
import torch
from torch import nn

from clarion import ClarionError, Experiment
from clarion.errors import InvalidArgumentError
from clarion.experiment.defaults import (
    check_task,
    choose_loss,
    choose_metrics,
    choose_monitor,
    infer_mode,
)
from clarion.metrics.registry import (
    _spellings,
    get_metric,
    metric_classes_dict,
    metric_funcs_dict,
)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("classif", "classif"),
        ("classification", "classif"),
        ("classify", "classif"),
        ("reg", "reg"),
        ("regression", "reg"),
        (None, None),
    ],
)
def test_tasks_are_known_by_their_beginning(task, kind):
    assert check_task(task) == kind


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(InvalidArgumentError, match=r'"clasification"; did you mean "classificat'):
        check_task("clasification")
    with pytest.raises(ValueError, match=r'no task "foo"\. Known: "classification"'):
        check_task("foo")


@pytest.mark.parametrize(
    ("task", "given", "own", "expected"),
    [
        ("classif", None, None, "cross_entropy"),
        ("reg", None, None, "mse"),
        (None, None, None, None),
        ("reg", None, "l1", "l1"),
        ("reg", "huber", "l1", "huber"),
        (None, None, "l1", "l1"),
    ],
)
def test_the_loss(task, given, own, expected):
    network = nn.Linear(1, 1)
    if own:
        network.loss_function = own
    assert choose_loss(network, task, given) == expected


@pytest.mark.parametrize("task", [None, "classification"])
def test_what_models_of_transformers_call_themselves_is_no_loss_of_the_user(tmp_path, task):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    network = transformers.BertForSequenceClassification(config)
    data = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "labels": torch.tensor([0, 1])}
    expected = network(**data).loss.item()
    experiment = Experiment(tmp_path, network, logging=False, monitoring=False, task=task)
    results = experiment.train([data], epochs=1, verbose=False)
    assert results[0]["loss"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "name", "given", "own", "expected"),
    [
        ("classif", "batch_metrics", None, None, ["accuracy"]),
        ("classif", "epoch_metrics", None, None, ["f1"]),
        ("classif", "batch_metrics", [], None, ["accuracy"]),
        ("classif", "batch_metrics", [], ["topk"], ["topk"]),
        ("classif", "batch_metrics", ["bin_acc"], ["topk"], ["bin_acc"]),
        ("classif", "batch_metrics", None, [], ["accuracy"]),
        ("reg", "batch_metrics", None, None, None),
        ("reg", "epoch_metrics", None, ["r2"], ["r2"]),
        (None, "epoch_metrics", None, None, None),
    ],
)
def test_the_metrics(task, name, given, own, expected):
    network = nn.Linear(1, 1)
    if own is not None:
        setattr(network, name, own)
    assert choose_metrics(network, task, name, given) == expected


@pytest.mark.parametrize(
    ("task", "metric", "mode", "expected"),
    [
        ("classif", None, None, ("val_acc", "max")),
        ("reg", None, None, ("val_loss", "min")),
        (None, None, None, ("val_loss", "min")),
        ("classif", "val_fscore_macro", None, ("val_fscore_macro", "max")),
        ("classif", "val_loss", None, ("val_loss", "min")),
        ("classif", None, "min", ("val_acc", "min")),
        ("classif", "val_acc", "min", ("val_acc", "min")),
        ("reg", "val_r2", None, ("val_r2", "max")),
        (None, "loss", "max", ("loss", "max")),
    ],
)
def test_what_is_watched(task, metric, mode, expected):
    monitor = choose_monitor(task, monitoring=True, metric=metric, mode=mode)
    assert (monitor.metric, monitor.mode) == expected


def test_without_monitoring_nothing_is_watched():
    monitor = choose_monitor("classif", monitoring=False, metric="val_acc", mode="max")
    assert (monitor.metric, monitor.mode) == (None, None)


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"mode='foo'.*\"min\".*\"max\""):
        choose_monitor("reg", monitoring=True, metric=None, mode="foo")


MORE = """
acc val_acc val_bin_acc accuracy val_f1 fscore_micro val_fscore_macro f2 precision_macro val_recall
auc val_AUROC val_roc_auc top1 val_top5 val_topk acc2 r2 val_kendall_tau iou matthews
val_explained_variance concordance val_pearson spearman val_mIoU corr val_cohen_kappa mAP val_map50
bleu val_bleu4 ndcg val_b_acc distance_correlation val_time_acc
"""
LESS = """
loss val_loss mse val_mae acc_loss f1_error val_perplexity lr other concordance_loss explained_error
val_wer mse2 val_b_loss hamming_distance map_loss
"""


@pytest.mark.parametrize("metric", MORE.split())
def test_more_is_better(metric):
    assert infer_mode(metric) == "max"


@pytest.mark.parametrize("metric", LESS.split())
def test_less_is_better(metric):
    assert infer_mode(metric) == "min"


# By what the metrics are: errors, distances and surprises against agreements and rates of hits.
REGISTERED = {
    "min": """
        cross_entropy kl_div bce bce_with_logits mae hinge_embedding huber l1 mse multi_margin
        multilabel_margin multilabel_soft_margin nll poisson_nll smooth_l1 soft_margin mape msle
        smape perplexity rmse
    """,
    "max": """
        concordance explained_variance pearson spearman acc bin_acc auroc fscore_macro
        precision_macro recall_macro bin_fscore bin_precision bin_recall kendall_tau r2
        top1 top2 top3 top4 top5 top6 top7 top8 top9 top10 top20 top30 top40 top50 top60 top70 top80
        top90 top100
    """,
}


def names_in_logs():
    for entry in metric_funcs_dict.values():
        yield entry[0] if isinstance(entry, tuple) else entry.__name__
    for entry in metric_classes_dict.values():
        yield entry[0] if isinstance(entry, tuple) else entry().__name__


def test_the_mode_of_each_registered_metric_is_that_of_its_direction(recwarn):
    expected = {name: mode for mode, names in REGISTERED.items() for name in names.split()}
    assert set(names_in_logs()) == set(expected), "a metric without an expectation, or too many"
    for name, mode in expected.items():
        for key in (name, f"val_{name}", f"val_clean_{name}"):
            assert choose_monitor(None, monitoring=True, metric=key, mode=None).mode == mode, key
    assert not recwarn


@pytest.mark.parametrize("name", [*metric_funcs_dict, *metric_classes_dict])
def test_the_names_by_which_metrics_are_asked_for_have_a_direction_too(name):
    asked = _spellings[name]
    logged = get_metric(asked)
    logged = logged[0] if isinstance(logged, tuple) else logged.__name__
    mode = choose_monitor(None, monitoring=True, metric=asked, mode=None).mode
    assert mode == infer_mode(logged)


def test_a_name_that_tells_no_direction_is_told_once(tmp_path):
    def energy(y_pred, y_true):
        return y_pred.sum()

    network = nn.Linear(1, 1)
    with pytest.warns(
        UserWarning, match='monitor_metric="val_energy" is .* monitor_mode="max"'
    ) as told:
        experiment = Experiment(
            tmp_path, network, batch_metrics=[energy], monitor_metric="val_energy"
        )
    assert len(told) == 1
    assert told[0].filename == __file__
    assert experiment.monitor_mode == "min"
    for mode in ("min", "max"):
        given = Experiment(tmp_path, network, monitor_metric="val_energy", monitor_mode=mode)
        assert given.monitor_mode == mode
    Experiment(tmp_path, network, monitor_metric="val_energy", monitoring=False)


def test_other_arguments_go_to_the_model(tmp_path):
    network = torch.nn.Linear(2, 2)
    options = {"precision": "bf16-mixed", "loss_options": {"label_smoothing": 0.1}}
    experiment = Experiment(str(tmp_path), network, task="classif", **options)
    assert experiment.model.precision == "bf16-mixed"
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    loss = experiment.model.evaluate_on_batch(x, y, return_dict_format=True)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(x)
    expected = torch.nn.functional.cross_entropy(scores.float(), y, label_smoothing=0.1)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ClarionError, match=r'no argument "precison"; did you mean "precision"'):
        Experiment(str(tmp_path), network, precison="32")
