# SPDX-License-Identifier: Apache-2.0
"""plures-oci's limits: cgroups get what the configuration and `update` say, statistics tell it, and the kernel holds to it."""
import json
import os
import pathlib
import subprocess
import threading
import time

import pytest

import containers
from containers import config, shell

pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable()))]


@pytest.fixture
def runtime():
    r = containers.Runtime()
    yield r
    r.close()


def folder(pid, controller):
    """The cgroup of a process: (path, whether it is of v1)."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return pathlib.Path("/sys/fs/cgroup") / names.removeprefix("name=") / path.lstrip("/"), True
    line = [line for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")][0]
    path = pathlib.Path("/sys/fs/cgroup") / line[3:].lstrip("/")
    controller = {"blkio": "io"}.get(controller, controller)
    if not (path / "cgroup.controllers").exists() or controller not in (path / "cgroup.controllers").read_text().split():
        pytest.skip(f"no cgroup controller {controller}")
    return path, False


def value(runtime, name, controller, v1, v2):
    path, is_v1 = folder(runtime.state(name)["pid"], controller)
    return (path / (v1 if is_v1 else v2)).read_text().strip()


def started(runtime, configuration):
    name = runtime.create(configuration)
    runtime.call("start", name, check=True)
    return name


RESOURCES = {"memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20}, "pids": {"limit": 40},
             "cpu": {"shares": 512, "quota": 20000, "period": 50000, "cpus": "0", "mems": "0"}}


def test_resources(runtime):
    name = started(runtime, config("sleep", "1000", linux__resources=RESOURCES))
    assert value(runtime, name, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert value(runtime, name, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max") in (str(128 << 20), str(64 << 20))
    assert value(runtime, name, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    assert value(runtime, name, "pids", "pids.max", "pids.max") == "40"
    assert value(runtime, name, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    path, v1 = folder(runtime.state(name)["pid"], "cpu")
    if v1:
        assert [(path / f).read_text().strip() for f in ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")] == ["512", "20000", "50000"]
    else:
        assert (path / "cpu.max").read_text() == "20000 50000\n"


def test_block_io(runtime):
    disk = next((p for p in sorted(pathlib.Path("/sys/block").iterdir()) if (p / "device").exists()), None)
    if disk is None:
        pytest.skip("no disk")
    major, minor = map(int, (disk / "dev").read_text().split(":"))
    rate = [{"major": major, "minor": minor, "rate": 1 << 20}]
    name = started(runtime, config("sleep", "1000", linux__resources={"blockIO": {"throttleReadBpsDevice": rate, "throttleWriteIOPSDevice": rate}}))
    assert value(runtime, name, "blkio", "blkio.throttle.read_bps_device", "io.max").startswith(f"{major}:{minor}")


def test_update(runtime):
    name = started(runtime, config("sleep", "1000", linux__resources=RESOURCES))
    runtime.call("update", "--memory", "256M", "--memory-swap", "512M", "--pids-limit", "99", "--cpu-quota", "30000", "--cpu-share", "2048", name, check=True)
    assert value(runtime, name, "memory", "memory.limit_in_bytes", "memory.max") == str(256 << 20)
    assert value(runtime, name, "pids", "pids.max", "pids.max") == "99"
    # Down again: the kernel wants the other order.
    runtime.call("update", "--resources", "-", name, check=True, input=json.dumps({"memory": {"limit": 32 << 20, "swap": 32 << 20}}))
    assert value(runtime, name, "memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)
    runtime.call("update", "--memory=-1", "--memory-swap=-1", "--cpu-quota=-1", "--pids-limit=-1", name, check=True)
    assert value(runtime, name, "pids", "pids.max", "pids.max") == "max"
    path = runtime.folder / "r.json"
    path.write_text('{"memory": {"limit": "x"}}')
    for args, expected in ((["--memory", "lots"], "--memory"), (["--pids-limit", "x"], "--pids-limit"), (["--resources", path], "memory.limit"),
                           (["--resources", "/no/where"], "--resources"), (["--cpu-period", "7"], "cpu.period")):
        r = runtime.call("update", *args, name)
        assert r.returncode == 1 and expected in r.stderr, r.stderr
    runtime.call("kill", name, "KILL", check=True)
    runtime.wait(name)
    assert "container not running" in runtime.call("update", "--memory", "64M", name).stderr


def test_statistics(runtime):
    name = started(runtime, shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000", linux__resources=RESOURCES))
    time.sleep(0.5)
    stats = json.loads(runtime.call("events", "--stats", name, check=True).stdout)
    assert stats["type"] == "stats" and stats["id"] == name
    data = stats["data"]
    assert data["cpu"]["usage"]["total"] > 1000000 and data["pids"]["current"] >= 1 and data["pids"]["limit"] == 40
    assert 0 < data["memory"]["usage"]["usage"] < 64 << 20 and data["memory"]["usage"]["limit"] == 64 << 20


def test_events_tell_of_memory_that_ran_out(runtime):
    script = "trap go=1 USR1; while [ -z $go ]; do sleep 0.1; done; (tail /dev/zero) 2>/dev/null; sleep 100"
    name = runtime.create(shell(script, linux__resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}}))
    runtime.call("start", name, check=True)
    events = subprocess.Popen(runtime.argv("events", "--interval", "1s", name), stdout=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(events.stdout), daemon=True)
    reader.start()
    end = time.monotonic() + 60
    while not lines and time.monotonic() < end:  # it watches
        time.sleep(0.1)
    runtime.call("kill", name, "USR1", check=True)
    while not any('"oom"' in line for line in lines) and time.monotonic() < end:
        time.sleep(0.1)
    runtime.call("kill", name, "KILL", check=True)
    assert events.wait(timeout=60) == 0
    reader.join(timeout=60)
    assert [json.loads(line) for line in lines if '"oom"' in line] == [{"type": "oom", "id": name}]


# --- limits hold ----------------------------------------------------------------------------------------------------------

def test_a_fork_bomb_is_held(runtime):
    script = "sleep 3 & i=0; while [ $i -lt 200 ]; do (sleep 3 &) 2>/dev/null; i=$((i+1)); done; echo unharmed"
    name = started(runtime, shell(script, linux__resources={"pids": {"limit": 20}}))
    highest, end = 0, time.monotonic() + 15
    while runtime.status(name) == "running" and time.monotonic() < end:
        highest = max(highest, len(json.loads(runtime.call("ps", "--format", "json", name, check=True).stdout)))
        time.sleep(0.05)
    assert 2 <= highest <= 20
    assert "can't fork" in runtime.log(name) or "unharmed" in runtime.log(name)


def test_a_memory_hog_is_killed_inside(runtime):
    r = runtime.run(shell("tail /dev/zero; echo status $?", linux__resources={"memory": {"limit": 32 << 20, "swap": 32 << 20}}))
    assert r.returncode == 0 and "status 137" in r.stdout, (r.stdout, r.stderr)
    r = runtime.run(config("tail", "/dev/zero", linux__resources={"memory": {"limit": 32 << 20, "swap": 32 << 20}}))
    assert r.returncode == 137


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_busy_loop_under_a_quota(runtime, share):
    """CPU time used, by the kernel's count, against the quota of as many periods as went by, by its count as well; time itself is not
    looked at. On a busy host there are periods in which the loop does not get its quota, even with the largest share, so the lower bound is
    of those in which it did: it was throttled. Read while the container is paused, so that the counts belong together."""
    quota = int(100000 * share)
    name = started(runtime, shell("while :; do :; done", linux__resources={"cpu": {"quota": quota, "period": 100000, "shares": 262144}}))

    def used():
        runtime.call("pause", name, check=True)
        cpu = json.loads(runtime.call("events", "--stats", name, check=True).stdout)["data"]["cpu"]
        runtime.call("resume", name, check=True)
        return cpu["usage"]["total"] / 1000 / quota, cpu["throttling"]["periods"], cpu["throttling"]["throttledPeriods"]

    before = used()
    end = time.monotonic() + 240
    while (now := used())[2] - before[2] < 40 and time.monotonic() < end:
        time.sleep(0.5)
    quotas, periods, throttled = (a - b for a, b in zip(now, before))
    print(f"{quotas:.2f} quotas in {periods} periods, {throttled} of them throttled: {quotas / periods:.3f} of the quota")
    # At either end there is a period of which a part is counted.
    assert throttled * 0.95 - 2 <= quotas <= periods * 1.05 + 2
    if throttled < 40:
        pytest.skip(f"the host is so busy that a loop with the largest share was throttled only {throttled} times")


def test_the_parents_that_were_made_go_too(runtime):
    c = config("sleep", "1000", linux__cgroupsPath=runtime.cgroup("a/b"))
    first = started(runtime, c)
    second = started(runtime, config("sleep", "1000", linux__cgroupsPath=runtime.cgroup("a/c")))
    assert folder(runtime.state(first)["pid"], "pids")[0].parts[-2:] == ("a", "b")
    runtime.call("delete", "--force", first, check=True)
    assert runtime.status(second) == "running"
    runtime.call("delete", "--force", second, check=True)


def test_a_cgroup_that_was_there_stays(runtime):
    """Its other processes are none of ours to kill."""
    made = []
    try:
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            name = line.split(":")[1].removeprefix("name=")
            for base in (pathlib.Path("/sys/fs/cgroup") / (name or "unified"), pathlib.Path("/sys/fs/cgroup")):
                if (base / "cgroup.procs").exists():
                    there = base / runtime.cgroup("").strip("/")
                    there.mkdir(exist_ok=True)
                    made.append(there)
                    break
        pids = next(m for m in made if (m / "pids.max").exists() or "unified" in str(m))
        sleeper = subprocess.Popen(["sleep", "1000"])
        (pids / "cgroup.procs").write_text(str(sleeper.pid))
        name = started(runtime, config("sleep", "1000", linux__cgroupsPath=runtime.cgroup("")))
        runtime.call("kill", "--all", name, "KILL")
        runtime.call("delete", "--force", name, check=True)
        assert sleeper.poll() is None and all(m.exists() for m in made)
        sleeper.kill()
        sleeper.wait()
    finally:
        for m in made:
            for _ in range(50):
                try:
                    m.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


def test_huge_pages_v1(runtime):
    name = started(runtime, config("sleep", "1000"))
    path, v1 = folder(runtime.state(name)["pid"], "hugetlb")
    if not v1 or not (path / "hugetlb.2MB.limit_in_bytes").exists():
        pytest.skip("no huge pages on cgroup v1")
    name = started(runtime, config("sleep", "1000", linux__resources={"hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}]}))
    for file in ("limit_in_bytes", "rsvd.limit_in_bytes"):
        assert value(runtime, name, "hugetlb", f"hugetlb.2MB.{file}", "") == str(2 << 20)


def test_network_class(runtime):
    name = started(runtime, config("sleep", "1000"))
    if not folder(runtime.state(name)["pid"], "net_cls")[1]:
        pytest.skip("no network classes")
    name = started(runtime, config("sleep", "1000", linux__resources={"network": {"classID": 65537, "priorities": [{"name": "lo", "priority": 3}]}}))
    assert value(runtime, name, "net_cls", "net_cls.classid", "") == "65537"
    assert "lo 3" in value(runtime, name, "net_prio", "net_prio.ifpriomap", "").splitlines()
