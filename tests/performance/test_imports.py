"""What a program loads that imports clarion, and one that trains with it."""

import gc
import json
import subprocess
import sys

import pytest

import clarion

IMPORT = """
import json, sys
import torch, torch.utils.data
torch.optim.SGD([torch.ones(1)], lr=0.1)  # torch loads more with its first optimizer
before = set(sys.modules)
from clarion import Model
"""
FIT = """
network = torch.nn.Linear(4, 2)
x = torch.randn(320, 4)
model = Model(network, "sgd", "cross_entropy", batch_metrics=["accuracy"])
model.fit(x, (x[:, 0] > 0).long(), epochs=1, verbose=False)
"""
SHOW = "\nprint(json.dumps(sorted(set(sys.modules) - before)))\n"

CEILING_OWN = 150  # modules of clarion; as many were found
CEILING_OTHERS = 8  # modules of others, beside torch's; 6 were found


@pytest.mark.slow
def test_importing_loads_little_beyond_torch_and_the_first_training_no_more():
    output = subprocess.run(
        [sys.executable, "-c", IMPORT + SHOW + FIT + SHOW],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in output.stdout.splitlines():
        names = json.loads(line)
        own = [name for name in names if name.split(".")[0] == "clarion"]
        others = [name for name in names if name not in own]
        assert len(own) <= CEILING_OWN, own
        assert len(others) <= CEILING_OTHERS, others


@pytest.mark.parametrize("enabled", [True, False])
def test_a_name_is_loaded_without_a_search_for_garbage(enabled, tmp_path, monkeypatch):
    (tmp_path / f"probe_{enabled}.py").write_text("import gc\n\nsearches = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        assert not clarion._loaded(f"probe_{enabled}").searches
        assert gc.isenabled() == enabled
        with pytest.raises(ImportError):
            clarion._loaded("clarion.nowhere")
        assert gc.isenabled() == enabled
    finally:
        sys.modules.pop(f"probe_{enabled}", None)
        (gc.enable if was_enabled else gc.disable)()
