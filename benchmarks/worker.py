"""One measurement in a process of its own: `run.py` starts it and reads the file it leaves."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jobs import Job, Ready, make_job

__all__ = ["main"]

VARIANTS = {
    "bar": "progress",
    "logs": "reads_logs",
    "bf16": "bf16",
    "channels_last": "channels_last",
    "buckets": "buckets",
    "compiled": "compiled",
    "own": "own",
}
"""What the part of a contender's name after the colon sets in the job."""


def main(framework: str, variants: list[str], workload: str, kind: str, scale: float) -> Any:
    """Measure, and return what was found as a dict that JSON can hold.

    Args:
        framework: A module of ``frameworks``.
        variants: What is asked for beside the workload's own job, names of ``VARIANTS``.
        workload: A workload of ``jobs``.
        kind: What is measured, a key of ``KINDS``.
        scale: The size of the data, as a fraction of the full one.
    """
    torch.set_num_threads(1)
    wanted = {VARIANTS[name]: True for name in variants}
    job = replace(make_job(workload, scale), **wanted)
    return KINDS[kind](import_module(f"frameworks.{framework}"), job)


def fit(framework: ModuleType, job: Job) -> dict[str, Any]:
    """Measure a training, after a short one."""
    from measuring import counted_rows, measured

    first = {name: value.clone() for name, value in job.network.state_dict().items()}
    short = job.small()
    if job.compiled:
        train = framework.prepared(short)
        job.network.load_state_dict(first)
        torch.manual_seed(1)
        loss, cost = measured(lambda: train(job))
        return {**cost, "loss": loss, "steps": job.num_steps}
    with counted_rows(job.network) as rows:
        framework.fit(short)
    job.network.load_state_dict(first)
    torch.manual_seed(1)
    loss, cost = measured(lambda: framework.fit(job))
    return {**cost, "loss": loss, "steps": job.num_steps, "rows": rows[0] / short.num_rows}


def start(framework: ModuleType, job: Job) -> dict[str, Any]:
    """Train for ten steps; the runner measures the whole process."""
    return {"loss": framework.fit(job), "steps": job.num_steps}


def score(framework: ModuleType, job: Job) -> dict[str, Any]:
    """Measure an evaluation with macro-F1, and a prediction."""
    from measuring import measured

    short = job.small()
    framework.evaluate(short)
    framework.predict(short)
    (loss, f1), evaluated = measured(lambda: framework.evaluate(job))
    scores, predicted = measured(lambda: framework.predict(job))
    assert len(scores) == job.num_rows
    both = evaluated["cpu"] + predicted["cpu"]
    growth = max(evaluated["growth"], predicted["growth"])
    return {
        "cpu": both,
        "loss": loss,
        "f1": f1,
        "growth": growth,
        "evaluate": evaluated,
        "predict": predicted,
        "steps": 2 * job.num_steps,
    }


def reads(framework: ModuleType, job: Job) -> dict[str, Any]:
    """Count what a step of training and one of validation read on the host, and do at all.

    What is read once in a training drops out: trainings of different length are compared.
    """
    assert job.batches is not None
    assert job.valid is not None
    few, many = job.batches.batches[:128], job.batches.batches

    def counts(train: Any, valid: Any) -> dict[str, int]:
        from measuring import HostReads, Operations

        with HostReads() as copies, Operations() as operations:
            framework.fit(replace(job, batches=Ready(train), valid=Ready(valid)))
        found = {"reads": operations.reads, "operations": operations.count}
        return {**found, "copies": copies.calls.total()}

    counts(few, few)
    base, longer, validated = counts(few, few), counts(many, few), counts(few, many)
    steps = len(many) - len(few)
    result: dict[str, Any] = {"steps": len(many)}
    for key in base:
        result[f"train {key}"] = (longer[key] - base[key]) / steps
        result[f"valid {key}"] = (validated[key] - base[key]) / steps
    return result


def long(framework: ModuleType, job: Job) -> dict[str, Any]:
    """Measure memory and time over many steps of a trivial network."""
    from measuring import Watched

    framework.fit(job.small())
    watched: Any = Watched(job.batches)
    framework.fit(replace(job, batches=watched))
    steps, used, seconds = zip(*watched.notes, strict=True)
    quarter = len(steps) // 4
    each = [
        (seconds[b] - seconds[a]) / (steps[b] - steps[a])
        for a, b in ((1, 1 + quarter), (-1 - quarter, -1))
    ]
    return {
        "cpu": seconds[-1] - seconds[0],
        "growth": used[-1] - used[1],
        "steps": steps[-1],
        "slower": each[1] / each[0],
    }


KINDS = {"fit": fit, "start": start, "score": score, "reads": reads, "long": long}


if __name__ == "__main__":
    task, target = json.loads(sys.argv[1]), Path(sys.argv[2])
    target.write_text(json.dumps(main(**task)), "utf-8")
