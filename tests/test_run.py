# SPDX-License-Identifier: Apache-2.0
"""`./dev run`'s part in Python: the prompt on a terminal, the demonstration without one."""
import os
import re
import subprocess
import sys

import pexpect
import pytest

import machine

pytestmark = pytest.mark.plures
COMMAND = [sys.executable, str(machine.TOP / "scripts/dev_run.py")]


@pytest.fixture(autouse=True)
def present(plures, kernel, initramfs):
    kernel(), initramfs()


@pytest.fixture
def terminal():
    child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], "--cpus", "1"], timeout=60, dimensions=(33, 101), echo=False,
                          env=dict(os.environ, TERM="xterm-256color"))
    child.expect_exact("plures:~# ")
    yield child
    child.close(force=True)


def test_demonstration_without_a_terminal():
    r = subprocess.run([*COMMAND, "--memory", "256M", "--cpus", "2"], capture_output=True, text=True, timeout=120,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stdout + r.stderr
    assert re.search(r"kernel: +Linux \d", r.stdout) and re.search(r"cpus: +2 x", r.stdout), r.stdout
    memory = int(re.search(r"memory: +(\d+) MB", r.stdout)[1])
    assert 180 < memory <= 256, r.stdout
    assert re.search(r"user space \d+\.\d+ s after the command", r.stdout), r.stdout


def test_what_is_missing_is_said(tmp_path):
    r = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                       env=dict(os.environ, PLURES=str(tmp_path / "none")))
    assert r.returncode == 1 and len(r.stderr.splitlines()) == 1 and "./dev build" in r.stderr, r.stderr


def test_the_guest_knows_the_terminal(terminal):
    terminal.sendline("stty size; echo $TERM")
    terminal.expect(r"33 101\s+xterm-256color\s")


def test_job_control(terminal):
    terminal.sendline("sleep 1000")
    terminal.expect_exact("sleep 1000")
    while terminal.expect_exact(["Stopped", pexpect.TIMEOUT], timeout=2) == 1:
        terminal.send("\x1a")  # only once the shell has given the terminal away
    terminal.sendline("jobs; kill -9 %1; echo gone $((40 + 2))")
    terminal.expect_exact("gone 42")


def test_end_of_input_powers_off(terminal):
    terminal.send("\x04")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def test_leaving(terminal):
    terminal.send("\x1d")
    terminal.expect(pexpect.EOF, timeout=60)
    terminal.wait()
    assert terminal.exitstatus == 0
