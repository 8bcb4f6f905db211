# SPDX-License-Identifier: Apache-2.0
"""The processes in which ring 3 is run directly: killed, stopped, forbidden, and gone when their machine is."""
import contextlib
import os
import pathlib
import signal
import time

import pytest
from conftest import machine

pytestmark = pytest.mark.plures

# Computes for ever, and says that it goes on.
COMPUTES = "echo @begins; i=0; while :; do i=$((i+1)); [ $((i % 2000)) = 0 ] && echo @$i; done"
PATIENCE = 60


def stubs_of(pid):
    """The machine's processes that run ring 3."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_alive(pid):
    try:
        return "plures-direct" in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)


@pytest.fixture
def computing(plures, kernel, initramfs):
    """A machine whose ring 3 computes, and those processes."""
    argv = machine.plures(kernel(), initrd=initramfs(COMPUTES), append=f"{machine.CONSOLE} quiet", options=["--soft-opt", "all-direct"])
    with machine.Machine(argv) as vm:
        vm.read_until("@2000\n", timeout=PATIENCE)
        until(lambda: stubs_of(vm.pid), "a process for ring 3")
        yield vm, stubs_of(vm.pid)


def test_killed(computing):
    """With it the guest's registers are lost, so the machine ends; but it goes on with another one if they were elsewhere just then."""
    vm, _ = computing

    def has_ended():
        if vm.process.poll() is None:
            with contextlib.suppress(OSError):
                for stub in stubs_of(vm.pid):
                    os.kill(stub, signal.SIGKILL)
        return vm.process.poll() is not None
    until(has_ended, "it ends")
    vm.wait(timeout=PATIENCE)
    assert vm.code not in (0, None) and vm.errors.count("\n") == 1, vm.errors
    assert "was killed" in vm.errors and "no-direct" in vm.errors


def test_stopped(computing):
    """SIGSTOP and SIGCONT as a shell sends them, to all of the group; other signals that do not concern the guest."""
    vm, stubs = computing
    for _ in range(3):
        for pid in (vm.pid, *stubs):
            os.kill(pid, signal.SIGSTOP)
        for stub in stubs:
            for sig in (signal.SIGSEGV, signal.SIGTRAP, signal.SIGILL, signal.SIGSYS, signal.SIGTERM, signal.SIGUSR1):
                os.kill(stub, sig)
        for pid in (*stubs, vm.pid):
            os.kill(pid, signal.SIGCONT)
        said = len(vm.output)
        vm.read_until(r"@\d+000\n", timeout=PATIENCE, start=said)
    assert "Segmentation" not in vm.output and "trap" not in vm.output


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays(computing, sig):
    vm, stubs = computing
    os.kill(vm.pid, sig)
    until(lambda: not any(map(is_alive, stubs)), "they are gone")
