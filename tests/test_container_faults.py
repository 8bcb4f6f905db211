# SPDX-License-Identifier: Apache-2.0
"""The runtime is killed at each of its system calls in turn: afterwards `delete --force` leaves the host as it was."""
import pathlib
import re
import shutil
import subprocess
import time

import pytest

import containers
from containers import config

pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()) or not shutil.which("strace"),
                                                     reason=containers.usable() or "strace is not installed")]


@pytest.fixture
def runtime():
    r = containers.Runtime()
    yield r
    r.close()


def processes(runtime):
    """Processes of the runtime's, and those in containers' cgroups."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if str(runtime.root) in (path / "cmdline").read_text() and not containers.gone(path.name):
                found.append(path.name)
        except OSError:
            pass
    return found


def strace(runtime, bundle, name, verb, inject, follow):
    """Runs a verb under strace, which does something at a system call; its exit status."""
    argv = ["strace", *(["-f"] if follow else []), "-o", str(runtime.folder / "trace"), "-e", "trace=all", *inject, *runtime.argv(verb, "-b", bundle, name)]
    with open(runtime.folder / "out", "wb") as out:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60).returncode


def check_nothing_is_left(runtime, name, where):
    r = runtime.call("delete", "--force", name)
    assert r.returncode == 0, f"{where}: {r.stderr}"
    assert not (runtime.root / name).exists(), where
    end = time.monotonic() + 5
    while processes(runtime) and time.monotonic() < end:
        time.sleep(0.01)
    assert processes(runtime) == [], where
    left = containers.cgroup_folders(runtime.tag)
    assert not left, f"{where}: {left}"


def calls_of(runtime, verb, follow):
    """Each system call of an undisturbed run as (name, which of that name), in order."""
    name = runtime.name()
    assert strace(runtime, runtime.bundle(config("true")), name, verb, [], follow) == 0
    runtime.call("delete", "--force", name)
    seen, calls = {}, []
    for line in (runtime.folder / "trace").read_text().splitlines():
        match = re.match(r"(?:\d+ +)?([a-z_0-9]+)\(", line)
        if match and match[1] not in ("exit_group", "execve"):
            seen[match[1]] = seen.get(match[1], 0) + 1
            calls.append((match[1], seen[match[1]]))
    return calls


def kill_at(runtime, verb, call, number, path, follow):
    c = config("true")
    if path:
        c["linux"]["cgroupsPath"] = runtime.cgroup(path)
    name = runtime.name()
    status = strace(runtime, runtime.bundle(c), name, verb, ["-e", f"inject={call}:signal=KILL:when={number}"], follow)
    check_nothing_is_left(runtime, name, f"killed at {call} number {number}: {(runtime.folder / 'trace').read_text().splitlines()[-3:]}")
    return status in (-9, 137)


slow = pytest.mark.slow


@pytest.mark.parametrize("verb,path,step", [("create", None, 7), ("create", "deep/er", 13), ("run", None, 19),
                                            pytest.param("create", None, 1, marks=slow), pytest.param("create", "deep/er", 1, marks=slow),
                                            pytest.param("run", None, 1, marks=slow)])
def test_killed_at_every_system_call(runtime, verb, path, step):
    calls = calls_of(runtime, verb, False)
    assert len(calls) > 100
    chosen = calls[step // 2::step]
    killed = [kill_at(runtime, verb, call, number, path, False) for call, number in chosen]
    # How often poll and the like are called may differ.
    assert sum(killed) > len(chosen) * 0.9


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=slow)])
def test_runtime_or_child_killed(runtime, step):
    """Each at its own; whichever comes first."""
    calls = list(dict.fromkeys(calls_of(runtime, "run", True)))
    chosen = calls[step // 2::step]
    killed = [kill_at(runtime, "run", call, number, None, True) for call, number in chosen]
    assert any(killed)


ERRORS = ["mkdir", "openat", "write", "clone3", "unshare", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsmount", "pivot_root", "umount2",
          "sendmsg", "recvmsg", "openat2", "mkdirat", "mknodat", "symlinkat", "setresuid", "setgroups", "capset", "prctl", "execve", "socketpair", "close_range"]


@pytest.mark.parametrize("call", ERRORS)
def test_an_error_of_any_kind_leaves_nothing(runtime, call):
    """One system call fails with an errno that is not its usual one: either the run works all the same, or it says why and cleans up."""
    for n in (1, 2, 5):
        name = runtime.name()
        status = strace(runtime, runtime.bundle(config("true")), name, "run", ["-e", f"inject={call}:error=ENOMEM:when={n}"], True)
        said = (runtime.folder / "out").read_text()
        assert status == 0 or "plures-oci: " in said or (call in ("execve", "write") and status != 0), (call, n, status, said)
        left = list(runtime.root.iterdir()) if runtime.root.exists() else []
        # What could not be cleaned up, for want of the very call, is on record.
        for entry in left:
            check_nothing_is_left(runtime, entry.name, f"{call} {n}")
        assert not containers.cgroup_folders(runtime.tag), (call, n)
