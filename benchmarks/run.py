"""Measure clarion beside a loop by hand and its peers.

    python benchmarks/run.py --help

Each measurement runs in a process of its own, on one thread. The contenders take turns in every
round, so that a busy machine troubles each of them alike; what is compared is processor time (user
and system), as a ratio to the loop by hand in the same round, and the tables show medians.
"""

import fcntl
import json
import os
import platform
import pty
import resource
import struct
import subprocess
import sys
import tempfile
import termios
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from report import disagreements, table, write_pages
from workloads import FRAMEWORKS, IMPORTS, WORKLOADS

HERE = Path(__file__).parent
PACKAGES = ("torch", "numpy", "poutyne", "lightning", "keras", "transformers", "skorch")
PACKAGES += ("pytorch-ignite", "accelerate")
KEPT_OUTPUT = 3000
"""Bytes of a process's output that are kept, to tell why it failed."""

Runs = dict[str, dict[str, list[dict[str, Any]]]]


def main(
    workloads: list[str] = ["arrays", "batches"],  # noqa: B006
    frameworks: list[str] = ["bare", "dataloader", "clarion", "poutyne"],  # noqa: B006
    rounds: int = 3,
    scale: float = 1.0,
    results: Path | None = None,
) -> int:
    """Measure, print tables, and keep the results.

    Args:
        workloads: What to measure: arrays, batches, images, scoring, texts, import, start,
            reads, long; or "all".
        frameworks: Who takes part: bare, dataloader, clarion, poutyne, lightning, keras, hf,
            skorch, ignite, accelerate; or "all". The first, the yardstick, always does.
        rounds: How often each contender runs.
        scale: The size of the data, as a fraction of the full one; small ones only try it out.
        results: A JSON file to keep the results in, beside those of other workloads that it holds
            already. A page with the tables and a plot are written next to it.

    Returns:
        0 if everybody ran and did the same work.
    """
    names = list(WORKLOADS) if workloads == ["all"] else workloads
    chosen = FRAMEWORKS if frameworks == ["all"] else ("bare", *frameworks)
    unknown = {*names} - {*WORKLOADS} | {*chosen} - {*FRAMEWORKS}
    if unknown:
        print(f"Unknown: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    troubles: list[str] = []
    found: Runs = {}
    for name in names:
        found[name] = measure(name, chosen, rounds, scale)
        print(f"\n{WORKLOADS[name].title}\n")
        print(table(name, found[name]))
        troubles += disagreements(name, found[name])
        if results is not None:
            keep(results, {name: found[name]}, scale)
    print(*troubles, sep="\n")
    return 1 if troubles else 0


def measure(
    name: str, frameworks: tuple[str, ...], rounds: int, scale: float
) -> dict[str, list[dict[str, Any]]]:
    """Return what each contender of a workload came to, round by round."""
    workload = WORKLOADS[name]
    contenders = [one for one in workload.contenders if one.partition(":")[0] in frameworks]
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    rounds = min(rounds, workload.rounds)
    if workload.kind in {"import", "start"}:  # Python writes bytecode, and files come into memory
        for contender in contenders:
            run(contender, name, workload.kind, scale)
    for number in range(rounds):
        for contender in contenders:
            print(f"{name}, round {number + 1} of {rounds}: {contender}", file=sys.stderr)
            part = workload.shorter.get(contender, 1.0)
            runs[contender].append(run(contender, name, workload.kind, scale * part))
    return runs


def run(contender: str, workload: str, kind: str, scale: float) -> dict[str, Any]:
    """Run one contender in a process of its own; return what it found, or why it failed."""
    framework, _, variants = contender.partition(":")
    if kind == "import":
        return launch(["-c", IMPORTS[framework]])
    task = {
        "framework": framework,
        "variants": variants.split("+") if variants else [],
        "workload": workload,
        "kind": kind,
        "scale": scale,
    }
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "found.json"
        cost = launch([str(HERE / "worker.py"), json.dumps(task), str(file)], directory)
        if "error" in cost:
            return cost
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return {**cost, **found}


def launch(arguments: list[str], directory: str | None = None) -> dict[str, Any]:
    """Run Python on a terminal of its own, as bars are drawn only on one.

    Returns:
        ``cpu``, the processor time of the whole process in seconds; or ``error``.
    """
    own, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env=environment(),
        cwd=directory or tempfile.gettempdir(),
    )
    os.close(terminal)
    output = b""
    while True:
        try:
            output = (output + os.read(own, 65536))[-KEPT_OUTPUT:]
        except OSError:  # nobody writes any more
            break
    os.close(own)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return {"error": output.decode("utf-8", "replace")}
    return {"cpu": _seconds(usage)}


def environment() -> dict[str, str]:
    """Return the environment of a measured process: one thread, no network, torch for Keras."""
    fixed = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "CUDA_VISIBLE_DEVICES": "",
        "KERAS_BACKEND": "torch",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TERM": "xterm-256color",
        "PYTHONWARNINGS": "ignore",
    }
    paths = [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    given = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**given, **fixed, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def keep(file: Path, found: Runs, scale: float) -> None:
    """Put results into a file, those of other workloads left as they are, and renew the pages."""
    kept = json.loads(file.read_text("utf-8")) if file.exists() else {"runs": {}}
    kept["runs"] |= found
    kept["runs"] = {name: kept["runs"][name] for name in WORKLOADS if name in kept["runs"]}
    today = datetime.now(UTC).date().isoformat()
    kept["made"] = kept.get("made", {}) | {name: f"{today}, {machine()}" for name in found}
    kept |= {"scale": scale, "versions": versions()}
    file.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    write_pages(file)


def machine() -> str:
    """Return what the measurements ran on, in a few words."""
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    named = (line.partition(": ")[2] for line in text.splitlines() if "model name" in line)
    model = next(named, platform.processor() or platform.machine())
    units = ""
    if "flags" in text:
        units = " with" if "amx_bf16" in text or "avx512_bf16" in text else " without"
        units += " units for bfloat16"
    return f"{model}, {os.cpu_count()} processors{units}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that take part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _seconds(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(auto_cli(main, as_positional=False))
