import os
import subprocess
import sys
import time

import pytest

from clarion.checkpoints.files import replace_file, temporary_of


def test_a_second_writer_does_not_disturb_the_first(tmp_path):
    path = tmp_path / "w.pt"

    def write(file):
        file.write(b"first")
        replace_file(path, lambda other: other.write(b"second"))
        assert path.read_bytes() == b"second"

    replace_file(path, write)

    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["w.pt"]


@pytest.mark.parametrize("name", ["w.safetensors", "w", "w.1.pt"])
def test_a_temporary_name_keeps_the_suffix_and_is_new_each_time(tmp_path, name):
    first, second = temporary_of(tmp_path / name), temporary_of(tmp_path / name)

    assert first != second
    assert first.suffix == ".tmp"
    if "." in name:
        assert first.with_suffix("").suffix == (tmp_path / name).suffix


def test_files_of_killed_writers_are_removed_and_others_stay(tmp_path):
    path = tmp_path / "w.pt"
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    own, dead = os.getpid(), process.pid
    long_ago, days_ago = time.time() - 3600, time.time() - 3 * 86400
    times = {
        f"w.{dead}-0000000a.pt.tmp": long_ago,
        f"w.{own}-0000000b.pt.tmp": days_ago,  # a process of that number, not of that time
        f"w.{own}-0000000c.pt.tmp": long_ago,
        f"w.{dead}-0000000d.pt.tmp": time.time(),
        f"v.{dead}-0000000e.pt.tmp": days_ago,
        "w.pt.tmp": days_ago,
    }
    for name, when in times.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))

    replace_file(path, lambda file: file.write(b"x"))

    assert sorted(os.listdir(tmp_path)) == sorted(["w.pt", *list(times)[2:]])
