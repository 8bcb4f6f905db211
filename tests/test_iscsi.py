# SPDX-License-Identifier: Apache-2.0
"""Logical units of an iSCSI target: tgtd, started here on loopback with a control socket of its own, which also dies and comes back."""
import os
import random
import shutil
import signal
import socket
import subprocess
import time

import pytest

from test_qcow2 import MIB, tool  # noqa: F401

pytestmark = [pytest.mark.plures, pytest.mark.skipif(not shutil.which("tgtd"), reason="tgtd is not installed")]
SIZE = 16 * MIB
NAME = "iqn.2026-01.test:disk"


class Target:
    """tgtd with one logical unit, a file."""

    def __init__(self, folder, disk, *, block=512, user=None):
        self.folder, self.disk, self.block, self.user = folder, disk, block, user
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.control = str(random.randrange(1000, 30000))
        self.env = os.environ | {"TGT_IPC_SOCKET": str(folder / "tgtd")}
        self.process = None
        self.start()

    def admin(self, *args):
        argv = ["tgtadm", "-C", self.control, "--lld", "iscsi", *map(str, args)]
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=20)

    def start(self):
        self.process = subprocess.Popen(["tgtd", "-f", "-C", self.control, "--iscsi", f"portal=127.0.0.1:{self.port}"],
                                        env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while self.admin("--op", "new", "--mode", "target", "--tid", 1, "-T", NAME).returncode:
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.skip("tgtd does not start here")
            time.sleep(0.05)
        unit = ["--mode", "logicalunit", "--tid", 1, "--lun", 1]
        assert self.admin("--op", "new", *unit, "-b", self.disk, "--blocksize", self.block).returncode == 0
        assert self.admin("--op", "update", *unit, "--params", "thin_provisioning=1").returncode == 0
        if self.user:
            account = ["--mode", "account", "--user", self.user[0]]
            assert self.admin("--op", "new", *account, "--password", self.user[1]).returncode == 0
            assert self.admin("--op", "bind", *account, "--tid", 1).returncode == 0
        assert self.admin("--op", "bind", "--mode", "target", "--tid", 1, "-I", "ALL").returncode == 0

    def kill(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def where(self, user="", lun=1):
        return f"iscsi://{user}127.0.0.1:{self.port}/{NAME}/{lun}"


@pytest.fixture
def target(tmp_path):
    targets = []

    def make(**options):
        disk = tmp_path / "disk.raw"
        with open(disk, "wb") as f:
            f.truncate(SIZE)
        targets.append(Target(tmp_path, disk, **options))
        return targets[-1]
    yield make
    for t in targets:
        t.kill()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.raw"
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


@pytest.mark.parametrize("block", [512, 4096])
def test_random_requests(tool, target, model, block):  # noqa: F811
    t = target(block=block)
    assert tool("info", t.where()).stdout == f"raw {SIZE} {block}\n"
    tool("random", t.where(), 1, 1000, model, 16)
    tool("random", t.where(), 2, 200, model, 1)
    t.kill()
    assert t.disk.read_bytes() == model.read_bytes()


def test_user_and_password(tool, target):  # noqa: F811
    t = target(user=("fred", "secretsecret"))
    assert tool("info", t.where("fred%secretsecret@")).stdout == f"raw {SIZE} 512\n"
    for user in ("fred%wrongwrong12@", ""):
        done = tool("info", t.where(user), ok=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "can't connect" in done.stderr


def test_what_is_not_there(tool, target):  # noqa: F811
    t = target()
    for where, says in ((t.where(lun=7), "LOGICAL_UNIT_NOT_SUPPORTED"), (t.where().replace("disk/", "other/"), "Target not found"),
                        ("iscsi://127.0.0.1:1/iqn.x/1", "nobody answers there"), ("iscsi://host", "write iscsi://")):
        done = tool("info", where, ok=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


def test_it_dies_and_comes_back(tool, target, model):  # noqa: F811
    """In the middle of requests: every one of them ends well, and the user is told once of each."""
    t = target()
    guest = subprocess.Popen([tool.path, "random", t.where(), "1", "12000", model, "8"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        time.sleep(0.3)
        t.kill()
        time.sleep(0.3)
        t.start()
    out, err = guest.communicate(timeout=100)
    assert guest.returncode == 0, err
    told = [line.rsplit(": ", 1)[1] for line in out.splitlines()]
    # On a fast host it may be through before the last of them.
    assert told == (["the connection broke; trying to connect again", "connected again"] * 3)[:len(told)] and len(told) >= 2
    t.kill()
    assert t.disk.read_bytes() == model.read_bytes()


def test_it_goes_while_nothing_is_under_way(tool, target):  # noqa: F811
    t = target()
    guest = subprocess.Popen([tool.path, "patient", t.where(), "40"], stdout=subprocess.PIPE, text=True)
    assert guest.stdout.readline() == "read\n"
    t.kill()
    time.sleep(0.5)
    t.start()
    out, _ = guest.communicate(timeout=60)
    assert out.count("read\n") == 39 and out.count("connected again") == 1


@pytest.mark.slow
def test_it_falls_silent(tool, target):  # noqa: F811
    t = target()
    guest = subprocess.Popen([tool.path, "patient", t.where(), "60"], stdout=subprocess.PIPE, text=True)
    assert guest.stdout.readline() == "read\n"
    t.process.send_signal(signal.SIGSTOP)
    while "does not answer" not in (line := guest.stdout.readline()):
        assert line
    t.process.send_signal(signal.SIGCONT)
    out, _ = guest.communicate(timeout=120)
    assert "connected again" in out and "error" not in out and out.endswith("read\n")
