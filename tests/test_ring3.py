# SPDX-License-Identifier: Apache-2.0
"""What user mode can do (guests/ring3), run directly, translated, and now this way and now that: as on the host."""
import re
import subprocess

import pytest
from conftest import guest_build, machine

pytestmark = pytest.mark.plures

# Where INT1 stops depends on what a host itself runs on; what a machine is, and its old system calls' page, are its own.
OWN = ("int1:", "machine:", "vsyscalls:")

# A minute, where all is run directly.
LONG = ("scattered",)


@pytest.fixture(scope="module")
def ring3():
    return guest_build.ring3()


def said_by(plures, kernel, initramfs, ring3, options, cpus, sections=""):
    initrd = initramfs(f"ring3 {sections}; echo status $?", {"bin/ring3": ring3})
    vm = machine.run(machine.plures(kernel(), initrd=initrd, append=f"{machine.CONSOLE} quiet vsyscall=xonly", memory="1G", cpus=cpus,
                                    options=["--soft-opt", options] if options else []), timeout=120)
    said = vm.output[-3000:] + vm.errors
    assert vm.code == 0 and "== end\nstatus 0\n" in vm.output, said
    lines = vm.output[vm.output.index("== "):vm.output.index("status 0\n")].splitlines()
    return [line for line in lines if not re.match(r"\[ *\d+\.\d+\] ", line)]


@pytest.fixture(scope="module")
def here(ring3):
    """What the program says on the host, by sections."""
    r = subprocess.run([ring3], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and r.stdout.endswith("== end\n"), r.stdout[-1000:] + r.stderr
    return {part.splitlines()[0]: [f"== {line}" if i == 0 else line for i, line in enumerate(part.splitlines())]
            for part in r.stdout.split("== ")[1:-1]}


@pytest.mark.parametrize("options,cpus", [
    ("all-direct", 2),
    pytest.param("all-direct", 1, marks=pytest.mark.slow),
    pytest.param("all-direct,all-hot", 2, marks=pytest.mark.slow),
    pytest.param(None, 1, marks=pytest.mark.slow),
    pytest.param(None, 2, marks=pytest.mark.slow),
    pytest.param("no-direct", 1, marks=pytest.mark.slow),
    pytest.param("no-direct", 2, marks=pytest.mark.slow),
])
def test_ring3(plures, kernel, initramfs, ring3, here, request, options, cpus):
    sections = [name for name in here if name not in LONG or request.config.getoption("--all")]
    there = said_by(plures, kernel, initramfs, ring3, options, cpus, " ".join(sections))
    expected = [line for name in sections for line in here[name]] + ["== end"]
    assert [line for line in there if not line.startswith(OWN)] == [line for line in expected if not line.startswith(OWN)]
    assert "vsyscalls: 100 of 100" in there
    assert "on CPU 0, differences: 0" in there


def test_one_machine(plures, kernel, initramfs, ring3):
    """CPUID and its like tell of the guest's CPU, and of the same one."""
    directly, translated = (said_by(plures, kernel, initramfs, ring3, options, 1, "machine") for options in ("all-direct", "no-direct"))
    assert directly == translated and "on CPU 0, differences: 0" in directly
