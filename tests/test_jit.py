# SPDX-License-Identifier: Apache-2.0
"""Guests that make code for ever: the translations' memory is filled again and again, what they compute is what the host computes,
and the process stays small."""
import json
import subprocess

import pytest
from conftest import job_results, machine

pytestmark = pytest.mark.plures

MOST_KB = 128 << 10  # that a guest of 512 MB may take beyond its memory
SEED = 7


@pytest.mark.parametrize("kind,jobs,cpus,least,options", [
    # How many of the cache's 16 regions were evicted at least: it was filled several times.
    # Ring 3 that runs directly leaves little to translate.
    pytest.param("engine", 40, 2, 64, "no-direct", id="engine"),
    pytest.param("engine", 20, 2, 200, "no-direct,small-cache", id="small-cache"),
    pytest.param("engine", 40, 2, 0, "all-direct", id="all-direct"),
    pytest.param("engine", 40, 1, 64, "no-direct", marks=pytest.mark.slow, id="one-cpu"),
    pytest.param("compile", 900, 2, 32, "no-direct", marks=pytest.mark.slow, id="compile"),
    pytest.param("engine", 2000, 2, 64 * 50, "no-direct", marks=pytest.mark.slow, id="long"),
    pytest.param("engine", 2000, 2, 0, None, marks=pytest.mark.slow, id="long-mixed"),
])
def test_code_for_ever(plures, kernel, initramfs, stress, tmp_path, kind, jobs, cpus, least, options):
    profile = tmp_path / "profile.json"
    work = f"{SEED} jobs {jobs} {kind}"
    with machine.Machine(machine.plures(kernel(), initrd=initramfs(f"stress {work}; echo status $?", {"bin/stress": stress}), memory="512M", cpus=cpus,
                                        append=f"{machine.CONSOLE} quiet",
                                        options=["--profile", profile, *(["--engine-options", options] if options else [])])) as vm:
        watch = machine.Watch(vm.pid)
        vm.wait(timeout=120 + jobs)
        watch.stop()
    said = vm.output[-3000:] + vm.errors
    assert vm.code == 0 and "== end\nstatus 0\n" in vm.output, said
    here = subprocess.run([stress, *work.split()], capture_output=True, text=True, timeout=60 + jobs)
    assert here.returncode == 0 and job_results(here.stdout) and job_results(here.stdout) == job_results(vm.output), said
    assert json.loads(profile.read_text())["evicted"] >= least
    assert watch.looks and 0 < watch.most < MOST_KB, f"{watch.most} kB beyond guest memory, {watch.looks} looks"
    print(f"{watch.most} kB beyond guest memory, {watch.looks} looks")
