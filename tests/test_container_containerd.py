# SPDX-License-Identifier: Apache-2.0
"""containerd as the client, by its ctr: a daemon of the test's own, with its own folders and socket."""
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

import containers

pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()) or not shutil.which("containerd"),
                                                     reason=containers.usable() or "containerd is not installed")]


@pytest.fixture(scope="module")
def ctr():
    home = pathlib.Path(tempfile.mkdtemp(prefix="plures-containerd-"))
    containers.make_rootfs(home / "rootfs")
    (home / "config.toml").write_text(f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n'
                                      f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{home}/sock"\n')
    with open(home / "log", "wb") as log:
        daemon = subprocess.Popen(["containerd", "-c", home / "config.toml"], stdout=log, stderr=log)

    def call(*args, check=True):
        r = subprocess.run(["ctr", "-a", home / "sock", *map(str, args)], capture_output=True, text=True, timeout=60)
        assert not check or r.returncode == 0, f"ctr {args}: {r.stdout}{r.stderr}"
        return r

    def run(name, *options, command):
        return call("run", "--rootfs", "--runtime", "io.containerd.runc.v2", "--runc-binary", containers.PROGRAM, *options, home / "rootfs", name,
                    *command, check=False)

    call.run = run
    end = time.monotonic() + 30
    while call("version", check=False).returncode and time.monotonic() < end:
        time.sleep(0.2)
    if call("version", check=False).returncode:
        daemon.kill()
        pytest.skip("containerd does not run here: " + (home / "log").read_text()[-300:])
    yield call
    for name in call("task", "ls", "-q", check=False).stdout.split():
        call("task", "kill", "-s", "9", name, check=False)
        time.sleep(0.5)
        call("task", "delete", "-f", name, check=False)
    daemon.terminate()
    daemon.wait(timeout=30)
    for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(str(home)):
            subprocess.run(["umount", "-l", line.split()[4]])
    shutil.rmtree(home, ignore_errors=True)


def test_run(ctr):
    r = ctr.run("run-it", "--rm", command=["/bin/sh", "-c", "echo out; exit 6"])
    assert (r.returncode, r.stdout) == (6, "out\n"), r.stderr


def test_life(ctr):
    r = ctr.run("life", "-d", command=["/bin/sleep", "1000"])
    assert r.returncode == 0, r.stderr
    assert "RUNNING" in ctr("task", "ls").stdout
    r = ctr("task", "exec", "--exec-id", "e1", "life", "/bin/sh", "-c", "echo in; exit 3", check=False)
    assert (r.returncode, r.stdout) == (3, "in\n"), r.stderr
    assert len(ctr("task", "ps", "life").stdout.splitlines()) == 2
    assert "memory" in ctr("task", "metrics", "life").stdout
    ctr("task", "pause", "life")
    assert "PAUSED" in ctr("task", "ls").stdout
    ctr("task", "resume", "life")
    ctr("task", "kill", "-s", "9", "life")
    end = time.monotonic() + 20
    while "STOPPED" not in ctr("task", "ls").stdout and time.monotonic() < end:
        time.sleep(0.1)
    assert "exit code 137" in ctr("task", "delete", "life").stderr
    ctr("container", "rm", "life")


def test_what_is_not_there(ctr):
    r = ctr.run("absent", "--rm", command=["/no/thing"])
    assert r.returncode == 1 and "/no/thing" in r.stderr and "No such file" in r.stderr
    ctr("container", "rm", "absent", check=False)
