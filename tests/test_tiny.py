# SPDX-License-Identifier: Apache-2.0
"""Tiny guests: each is a kernel of its own that checks one part of the machine and prints what it found."""
import re

import pytest

import machine

OK, FAILED = 33, 35
# Guests that end themselves otherwise, or need options, have tests of their own below.
PLAIN = ["hello", "exceptions", "paging", "smc", "strings", "timer", "modes", "clock", "interrupts", "paravirt"]


def run(argv, guest, timeout=60, **options):
    vm = machine.run(argv(guest, memory=options.pop("memory", "64M"), **options), timeout=timeout)
    said = f"{vm.output}\n{vm.errors}(exit status {vm.code})"
    assert "FAILED" not in vm.output and "unexpected" not in vm.output, said
    return vm, said


@pytest.mark.parametrize("name", PLAIN)
def test_guest(argv, tiny, name):
    vm, said = run(argv, tiny(name))
    assert vm.code == OK, said


def test_hello_says_so(argv, tiny):
    vm, said = run(argv, tiny("hello"))
    assert vm.output == "hello from ring 0, 64 bits\n", said


def test_multiboot(argv, tiny):
    vm, said = run(argv, tiny("multiboot"), append="one two=3")
    assert vm.code == OK, said
    assert re.search(r"^command line: .*one two=3$", vm.output, re.M), said


@pytest.mark.parametrize("cpus", [1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_processors(argv, tiny, cpus):
    vm, said = run(argv, tiny("smp"), cpus=cpus, timeout=240)
    assert vm.code == OK and f"cpus {cpus}\n" in vm.output, said


@pytest.mark.parametrize("cpus", [1, 3])
def test_acpi_and_power_off(argv, tiny, cpus):
    vm, said = run(argv, tiny("acpi"), cpus=cpus)
    assert vm.code == 0 and vm.output.endswith("powering off\n"), said
    assert f"cpus {cpus}\n" in vm.output, said


def test_resets(argv, tiny):
    vm, said = run(argv, tiny("reset"), options=["--reboot"])
    assert vm.code == OK, said
    assert re.findall(r"boot \d", vm.output) == ["boot 0", "boot 1", "boot 2", "boot 3"], said


def test_reset_ends_the_machine_when_asked(argv, tiny):
    vm, said = run(argv, tiny("reset"))
    assert vm.code == 0 and vm.output == "boot 0\n", said


@pytest.mark.plures
@pytest.mark.parametrize("options", [[], ["--reboot"]])
def test_triple_fault(argv, tiny, options):
    """Status 3, whether or not a reset would reboot, and a line with RIP and the fault."""
    vm, said = run(argv, tiny("triple"), options=options)
    assert vm.code == 3, said
    assert vm.output == "about to fault\n", said
    lines = vm.errors.strip().splitlines()
    assert lines and re.search(r"triple fault", vm.errors, re.I), said
    assert re.search(r"(rip|cs:rip)[ =:]*([0-9a-f]{4}:)?(0x)?0*10[0-9a-f]{4}\b", vm.errors, re.I), said
    assert re.search(r"#UD|#GP|exception (6|13)", vm.errors), said


@pytest.mark.parametrize("value", [0, 1, 0x7f])
def test_debug_exit_status(argv, tiny, value, tmp_path):
    """(v << 1) | 1, for a guest that does nothing else: the smallest there is, patched."""
    guest = bytearray(tiny("multiboot").read_bytes())
    # What it writes when all is well: mov al, 0x10; jmp.
    at = guest.index(b"\xb0\x10\xeb")
    guest[at + 1] = value
    path = tmp_path / "guest"
    path.write_bytes(guest)
    vm = machine.run(argv(path, memory="64M"), timeout=30)
    assert vm.code == (value << 1 | 1) & 0xff, vm.output + vm.errors
