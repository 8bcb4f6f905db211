# SPDX-License-Identifier: Apache-2.0
"""Minutes of random work in a guest (guests/stress: a compiler, code that is written and changed, forks, mappings, signals,
threads) give what the same work gives on the host."""
import subprocess

import pytest
from conftest import job_results, machine

# QEMU's TCG fails: with two CPUs, a thread that changes code which another one runs calls the old.
pytestmark = pytest.mark.plures


@pytest.mark.parametrize("seconds,seed,options", [
    pytest.param(15, 1, None, id="short"),
    pytest.param(300, 2, None, id="long", marks=pytest.mark.slow),
    pytest.param(15, 7, "all-direct", id="all-direct"),
    pytest.param(300, 8, "all-direct", id="all-direct-long", marks=pytest.mark.slow),
    pytest.param(60, 9, "no-direct", id="no-direct", marks=pytest.mark.slow),
    pytest.param(60, 3, "small-cache", id="small-cache", marks=pytest.mark.slow),
    pytest.param(60, 4, "no-groups", id="no-groups", marks=pytest.mark.slow),
    pytest.param(60, 5, "one-insn", id="one-insn", marks=pytest.mark.slow),
    pytest.param(60, 6, "all-hot", id="all-hot", marks=pytest.mark.slow),
])
def test_stress(plures, kernel, initramfs, stress, seconds, seed, options):
    initrd = initramfs(f"stress {seed} seconds {seconds}; echo status $?", {"bin/stress": stress})
    # What the last job takes comes on top, and a guest whose clock stands still must not hang the test.
    vm = machine.run(machine.plures(kernel(), initrd=initrd, append=f"{machine.CONSOLE} quiet", cpus=2,
                          options=["--engine-options", options] if options else []), timeout=3 * seconds + 90)
    said = vm.output[-3000:] + vm.errors
    assert vm.code == 0 and "== end\nstatus 0\n" in vm.output, said
    there = job_results(vm.output)
    # On a slow host, too, each kind of job was done once.
    assert there, said
    here = subprocess.run([stress, str(seed), "jobs", str(20 * len(there))], capture_output=True, text=True, timeout=3 * seconds + 90)
    assert here.returncode == 0, here.stdout[-1000:]
    different = [f"{a} here, {b} in the guest" for a, b in zip(job_results(here.stdout), there) if a != b]
    assert not different and len(job_results(here.stdout)) == len(there), "\n".join(different[:5])
