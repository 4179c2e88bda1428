import pytest
from torch import nn

from clarion.metrics import (
    camel_to_snake,
    clean_metric_class_name,
    clean_metric_func_name,
    flatten_metric_names,
    get_callables_and_names,
    get_names_of_metric,
    rename_doubles,
    rename_doubles_from_list,
)


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ("MSELoss", "mse_loss"),
        ("R2Score", "r2_score"),
        ("AUROC", "auroc"),
        ("BCEWithLogitsLoss", "bce_with_logits_loss"),
        ("F1", "f1"),
        ("already_snake", "already_snake"),
    ],
)
def test_camel_to_snake(camel, snake):
    assert camel_to_snake(camel) == snake


def test_clean_names_drop_case_underscores_and_one_suffix():
    assert clean_metric_func_name("Cross_EntropyLoss") == "crossentropy"
    assert clean_metric_func_name("loss_loss") == "loss"
    assert clean_metric_class_name("F1_Score") == "f1"
    assert clean_metric_class_name("loss") == "loss"


def test_names_come_from_the_pair_then_dunder_name_then_the_class():
    def some_metric(y_pred, y_true):
        return 0.0

    module = nn.MSELoss()
    assert get_names_of_metric(("x", some_metric)) == ("x", some_metric)
    assert get_names_of_metric((["x", "y"], some_metric)) == (["x", "y"], some_metric)
    assert get_names_of_metric(some_metric) == ("some_metric", some_metric)
    assert get_names_of_metric(module) == ("mse_loss", module)
    assert get_names_of_metric(lambda a, b: 0)[0] == "<lambda>"


def test_callables_and_names_are_lists():
    def one(y_pred, y_true):
        return 0.0

    assert get_callables_and_names([one, ("b", one)]) == ([one, one], ["one", "b"])
    assert get_callables_and_names([]) == ([], [])


def test_doubles_are_numbered_over_both_lists_and_keep_the_nesting():
    assert rename_doubles_from_list(["a", ["b", "a"], "c", "a", "c"]) == [
        "a1",
        ["b", "a2"],
        "c1",
        "a3",
        "c2",
    ]
    assert rename_doubles(["a", ("b", "c")], [["c"], "a", "d"]) == (
        ["a1", ["b", "c1"]],
        [["c2"], "a2", "d"],
    )
    assert rename_doubles([], []) == ([], [])


def test_flatten():
    assert flatten_metric_names(["a", ["b", "c"], ("d",)]) == ["a", "b", "c", "d"]
