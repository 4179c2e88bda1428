"""The page on metrics: its tables hold, and its programs run."""

import re
from pathlib import Path

import pytest

import clarion.metrics
from clarion.metrics import registry
from clarion.metrics.wrapping import wrap_metric

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`[^|]+`) \| `(\w+)` \|(?: `(\w+)` \|)?", PAGE, flags=re.MULTILINE)
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize(("names", "logged", "clz"), ROWS)
def test_tables(names, logged, clz):
    for name in re.findall(r"`(\w+)`", names):
        metric, found = wrap_metric(name)
        assert found == logged
        if clz:
            assert type(metric) is getattr(clarion.metrics, clz)


def test_every_registered_name_is_on_the_page():
    said = {
        clean(name)
        for names, *_ in ROWS
        for name in re.findall(r"`(\w+)`", names)
        for clean in (registry.clean_metric_func_name, registry.clean_metric_class_name)
    }
    known = {*registry.metric_funcs_dict, *registry.metric_classes_dict}
    assert {name for name in known - said if not re.fullmatch(r"top\d+(acc|accuracy)?", name)} == (
        set()
    )


@pytest.fixture
def _tables_stay():
    before = dict(registry.metric_classes_dict)
    yield
    registry.metric_classes_dict.clear()
    registry.metric_classes_dict.update(before)


@pytest.mark.usefixtures("_tables_stay")
def test_the_programs_run():
    assert len(PROGRAMS) == 4
    space = {}
    for program in PROGRAMS:
        exec(program, space)
    torch = space["torch"]
    bias = wrap_metric("bias")[0]
    bias.update(torch.tensor([3.0]), torch.tensor([2.0]))
    bias.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    assert bias.compute().item() == 0.5
    error, _ = wrap_metric(space["masked_error"])
    error(torch.tensor([1.0, 1.0]), torch.tensor([0.0, torch.nan]))
    error(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0]))
    assert error.compute().item() == pytest.approx((1 + 4) / 3)
    assert space["model"].metrics_names[:2] == ["acc", "best_two"]
