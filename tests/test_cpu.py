# SPDX-License-Identifier: Apache-2.0
"""--cpu: what a guest sees of the CPU is what was asked for, on both engines; what there is none of is an error."""
import json
import re
import subprocess

import pytest

import machine
from conftest import TOP

pytestmark = pytest.mark.plures

# (leaf, register) and bit.
BITS = {"pni": (1, 2, 0), "ssse3": (1, 2, 9), "sse4_2": (1, 2, 20), "movbe": (1, 2, 22), "xsave": (1, 2, 26), "avx": (1, 2, 28), "hypervisor": (1, 2, 31),
        "sse2": (1, 3, 26), "smep": (7, 1, 7), "avx2": (7, 1, 5), "bmi2": (7, 1, 8), "abm": (0x80000001, 2, 5), "nx": (0x80000001, 3, 20)}


@pytest.fixture(scope="module")
def told(plures):
    """What plures info says."""
    return json.loads(subprocess.run([plures, "info", "--json"], check=True, capture_output=True, text=True).stdout)


def seen_in(text):
    """The features of BITS in the words that the tiny guest prints."""
    leaves = {int(leaf, 16): [int(word, 16) for word in words.split()] for leaf, words in re.findall(r"^(\w{8})\.0: (.*)$", text, re.M)}
    return {name for name, (leaf, register, bit) in BITS.items() if leaves[leaf][register] >> bit & 1}


def features(argv, tiny, told, engine, cpu):
    """What a guest sees, and the words themselves. A KVM that emulates guest kernel mode has a CPUID of its own."""
    verdict = next(e for e in told["engines"] if e["name"] == engine)
    if not verdict["works"]:
        pytest.skip(verdict["detail"])
    vm = machine.run(argv(tiny("features"), memory="64M", engine=engine, options=["--cpu", cpu]), timeout=120)
    assert vm.code == 33, vm.output + vm.errors
    return seen_in(vm.output), vm.output


@pytest.mark.parametrize("engine", ["soft", "kvm"])
def test_a_level_is_what_it_says(argv, tiny, told, engine):
    assert features(argv, tiny, told, engine, "x86-64-v1")[0] == {"sse2", "nx", "hypervisor"}
    assert features(argv, tiny, told, engine, "x86-64-v2")[0] == {"pni", "ssse3", "sse4_2", "sse2", "nx", "hypervisor"}
    seen, words = features(argv, tiny, told, engine, "x86-64-v2,-sse4.1,-hypervisor")
    assert seen == {"pni", "ssse3", "sse2", "nx"}
    assert "0000000d.0: 00000000" in words  # no XSAVE, nothing for it to save


@pytest.mark.parametrize("engine", ["soft", "kvm"])
def test_one_feature_less_is_that_and_what_stands_on_it(argv, tiny, told, engine):
    all_of_it, _ = features(argv, tiny, told, engine, "host")
    assert features(argv, tiny, told, engine, "max")[0] == all_of_it
    assert features(argv, tiny, told, engine, "-avx")[0] == all_of_it - {"avx", "avx2"}


def test_linux_sees_the_same(argv, kernel, initramfs):
    script = "cat /proc/cpuinfo | grep ^flags; echo begun"
    vm = machine.run(argv(kernel(), initrd=initramfs(script), append=machine.CONSOLE, options=["--cpu", "x86-64-v2,+aes"]), timeout=300)
    flags = set(re.search(r"^flags\s*: (.*)$", vm.output, re.M)[1].split())
    assert {"sse4_2", "aes", "nx", "lm"} <= flags and not flags & {"avx", "xsave", "bmi2", "rdrand", "sha_ni", "fsgsbase"}, vm.output


def test_what_there_is_none_of_is_an_error(plures, tiny, told):
    missing = next(name for name in ("sha512", "avx512_fp16", "intel_psfd", "amd_psfd", "avx512_vp2intersect") if name not in told["guest_features"])
    for cpu, code, says in ((f"host,+{missing}", 1, f"--cpu asks for {missing}, which engine soft on this host does not have"),
                            ("x86-64-v2,+avx3", 2, "no CPU feature that a guest can have is called 'avx3'"),
                            ("Pentium", 2, "no CPU model is called 'Pentium': use one of host, max, x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v4")):
        done = subprocess.run([plures, "run", "--engine", "soft", "--kernel", tiny("hello"), "--memory", "64M", "--cpu", cpu],
                              capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == code and done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


def test_the_guide_has_the_models():
    rows = re.findall(r'^MODEL\("(\S+)", "(\S*)", "(.*)"\)$', (TOP / "src/vm/cpu_models.def").read_text(), re.M)
    written = re.findall(r"^\| (x86-64-\S+) \| (\S*) ?\| (.*) \|$", (TOP / "docs/guide/cpu.md").read_text(), re.M)
    assert rows and rows == written
