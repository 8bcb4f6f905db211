# SPDX-License-Identifier: Apache-2.0
"""What a machine loads when it starts: only what it needs. ./dev bench start has the times."""
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

import machine
from conftest import TOP

sys.path.append(str(TOP / "bench"))
import start  # noqa: E402

pytestmark = pytest.mark.plures

# Of network disks and of the user network, of compressed kernels and images, of traces; and what these stand on.
ON_DEMAND = ("nbd", "iscsi", "slirp", "gnutls", "glib-2.0", "xml2", "z", "lzma", "zstd", "lz4", "Zydis")


def libraries(pid):
    """The names of the shared libraries that a process has mapped: c of libc.so.6."""
    with open(f"/proc/{pid}/maps") as f:
        return set(re.findall(r"/lib([^/\s]+?)\.so[.\d]*$", f.read(), re.M))


@pytest.fixture
def begun(argv, tmp_path):
    """begun(option...): a machine whose guest has written a byte and halts for ever."""
    kernel = tmp_path / "guest"
    kernel.write_bytes(start.guest())

    def begin(*options, engine="soft"):
        vm = machine.Machine(argv(kernel, memory="64M", engine=engine, options=options))
        machines.append(vm)
        assert vm.read_until("!"), vm.errors
        return vm
    machines = []
    yield begin
    for vm in machines:
        vm.kill()


@pytest.mark.parametrize("engine", ["soft", "auto"])
def test_a_machine_loads_what_it_uses(begun, engine):
    found = libraries(begun(engine=engine).pid)
    assert "c" in found and not found & set(ON_DEMAND), found


def test_the_user_network_loads_its_library(begun):
    found = libraries(begun("--net", "user").pid)
    assert "slirp" in found and not found & {"nbd", "iscsi", "gnutls"}, found


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is not installed")
def test_a_network_disk_loads_its_library(begun, tmp_path):
    server = subprocess.Popen(["nbdkit", "-f", "-U", tmp_path / "nbd", "memory", "1M"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "nbd").exists():
            assert server.poll() is None
            time.sleep(0.02)
        found = libraries(begun("--disk", f"nbd+unix:///?socket={tmp_path}/nbd").pid)
        assert "nbd" in found and not found & {"iscsi", "slirp"}, found
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("name, options", [("nbd", ["--disk", "nbd://127.0.0.1:1/x"]), ("iscsi", ["--disk", "iscsi://127.0.0.1:1/iqn.x/0"]),
                                           ("slirp", ["--net", "user"])])
def test_a_library_that_is_missing_is_named(plures, tiny, tmp_path, name, options):
    """A file that is no library stands in its place."""
    file = next(line.split()[0] for line in subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout.splitlines()
                if re.match(rf"\s*lib{name}\.so\.\d", line))
    (tmp_path / file).write_text("no library\n")
    done = subprocess.run([plures, "run", "--engine", "soft", "--kernel", tiny("hello"), "--memory", "64M", *options], capture_output=True, text=True,
                          timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"this needs the library {file}, which can't be loaded" in done.stderr and "install it" in done.stderr


def test_bench_start(plures):
    done = subprocess.run([sys.executable, TOP / "bench" / "start.py", "--runs", "1", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"plures (soft)", "plures (auto)", "an empty program"} <= told.keys()
    for name, row in told.items():
        assert all(row[key] > 0 for key in (*start.COLUMNS, "min_ms")), name
    # Memory is the same in each run, give or take a page.
    assert told["plures (soft)"]["rss_kb"] < 8 << 10
