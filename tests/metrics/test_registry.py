import pytest
import torch
import torch.nn.functional as F

import clarion.metrics.registry as registry
from clarion.errors import InvalidTypeError, UnknownNameError
from clarion.metrics import (
    StreamingMetric,
    do_register_metric_class,
    do_register_metric_func,
    get_metric,
    metric_classes_dict,
    metric_funcs_dict,
    register_metric_class,
    register_metric_func,
    unregister_metric_class,
)
from clarion.metrics.wrapping import wrap_metric


@pytest.fixture(autouse=True)
def _leave_the_tables_as_they_were():
    tables = (metric_funcs_dict, metric_classes_dict, registry._spellings)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


class Counter(StreamingMetric):
    def tally(self, y_pred, y_true):
        return torch.tensor(float(len(y_true)))

    def conclude(self, sums):
        return sums


def test_register_function_bare_uses_its_own_name():
    @register_metric_func
    def my_own_loss(y_pred, y_true):
        return 1.0

    assert get_metric("MyOwn") is my_own_loss
    assert get_metric("my_own_loss") is my_own_loss


def test_register_function_with_names_and_a_name_in_logs():
    @register_metric_func("first", "second_one", unique_name="logged")
    def something(y_pred, y_true):
        return 1.0

    assert get_metric("first") == ("logged", something)
    assert get_metric("SecondOne") == ("logged", something)
    assert get_metric(("mine", "first")) == ("mine", something)
    assert wrap_metric("first")[1] == "logged"
    assert wrap_metric(("mine", "first"))[1] == "mine"


def test_registering_returns_the_normalised_names():
    assert do_register_metric_func(F.mse_loss, ["A_b", "c_loss"]) == ["ab", "c"]
    assert do_register_metric_func(F.mse_loss) == ["mse"]
    assert do_register_metric_class(Counter) == ["counter"]
    assert do_register_metric_class(Counter, "count_score", unique_name="n") == ["count"]


def test_a_class_gives_a_new_object_each_time():
    register_metric_class("my_counter")(Counter)
    first, second = get_metric("my_counter"), get_metric("MYCOUNTERScore")
    assert type(first) is type(second) is Counter
    assert first is not second


def test_a_class_with_a_name_in_logs():
    do_register_metric_class(Counter, ["tally"], unique_name="n")
    name, metric = get_metric("tally")
    assert name == "n"
    assert isinstance(metric, Counter)


def test_bare_class_decorator_and_unregistering():
    assert register_metric_class(Counter) is Counter
    assert isinstance(get_metric("counter"), Counter)
    unregister_metric_class(["counter"])
    with pytest.raises(ValueError, match='Unknown metric or loss "counter"'):
        get_metric("counter")


def test_unregistering_what_is_not_there():
    with pytest.raises(UnknownNameError, match='No metric class is registered as "acuracy"'):
        unregister_metric_class(["acuracy"])


def test_functions_win_over_classes():
    do_register_metric_class(Counter, "both")
    do_register_metric_func(F.mse_loss, "both")
    assert get_metric("both") is F.mse_loss


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ValueError, match='metric or loss "acuracy"; did you mean "accuracy"'):
        get_metric("acuracy")
    with pytest.raises(KeyError, match='did you mean "cross_entropy"'):
        get_metric("cros_entropy")
    with pytest.raises(ValueError, match=r'Unknown metric or loss "zzzzz"\. Known are'):
        get_metric("zzzzz")


def test_a_tuple_is_a_pair():
    with pytest.raises(InvalidTypeError, match=r"is a pair \(name, metric\); got 3 entries"):
        get_metric(("a", "b", F.mse_loss))


def test_anything_else_is_returned_as_it_is():
    metric = Counter()
    assert get_metric(metric) is metric
    assert get_metric(F.mse_loss) is F.mse_loss
    assert get_metric(("x", metric)) == ("x", metric)
