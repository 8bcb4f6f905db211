# SPDX-License-Identifier: Apache-2.0
"""The validation suite of the OCI's runtime-tools, which Debian does not package: OCI_RUNTIME_TOOLS names a checkout of
github.com/opencontainers/runtime-tools, golang-go builds its cases, and each is run with plures-oci, or with what OCI_RUNTIME names,
to compare. OCI_VALIDATION names cases that are built already."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

import containers

SOURCE, BUILT = os.environ.get("OCI_RUNTIME_TOOLS"), os.environ.get("OCI_VALIDATION")
RUNTIME = os.environ.get("OCI_RUNTIME", str(containers.PROGRAM))
pytestmark = [pytest.mark.plures, pytest.mark.slow, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable())),
              pytest.mark.skipif(not SOURCE and not BUILT, reason="OCI_RUNTIME_TOOLS names no checkout of the OCI's runtime-tools")]

CGROUPS = pathlib.Path("/sys/fs/cgroup")
V2 = (CGROUPS / "cgroup.controllers").exists()


def without(controller):
    return not V2 and not any(controller in p.name.split(",") for p in CGROUPS.glob("*"))


def last_capability():
    last = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text())
    return int(next(line.split()[1] for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")), 16), last


def lacks_capabilities():
    have, last = last_capability()
    return have != (2 << last) - 1


def kernel():
    return tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])


# Cases that don't pass, where, and why.
EXPLAINED = [
    ("delete", True, "the suite has no container deleted that is created; engines need it, and runc and crun do it"),
    ("hooks", True, "the suite expects other words than its own hooks write"),
    ("hooks_stdin", True, "the suite expects `created` of prestart hooks, which run while the state is `creating`"),
    ("linux_cgroups_.*", V2, "the suite reads the files of v1"),
    ("linux_cgroups_(relative_)?blkio", True, "kernels have no leaf weights since Linux 5.0"),
    ("linux_cgroups_(relative_)?hugetlb", without("hugetlb"), "the host has no such controller"),
    ("linux_cgroups_(relative_)?network", without("net_cls"), "the host has no such controller"),
    ("linux_cgroups_(relative_)?memory", True, "kernels have no limit of their own memory any more, which the specification calls deprecated"),
    ("linux_mount_label", not os.path.exists("/sys/fs/selinux/load"), "the host has no SELinux"),
    ("linux_ns_itype", True, "without a mount namespace of its own a container's mounts would be the host's, and stay"),
    ("linux_process_apparmor_profile", True, "nobody has loaded the profile that the suite asks for"),
    ("misc_props", True, "the suite runs a program that it has not put into the bundle"),
    ("mounts", kernel() >= (6, 8), "mountinfo lists mounts by when they were made; what is bound is opened before the rest is mounted"),
    ("pidfile", True, "the suite kills a process that may have ended"),
    ("prestart", True, "the suite expects the hook at `start`, as before version 1.0"),
    ("process_capabilities", lacks_capabilities(), "the host grants not all capabilities"),
    ("process_capabilities_fail", True, "an unknown capability is a warning since version 1.0.2"),
    ("process_rlimits", True, "a program in Go raises the limit of open files itself since Go 1.19"),
    ("start", True, "create refuses a configuration without `process` already"),
]


def explained(case):
    return next((why for name, here, why in EXPLAINED if here and re.fullmatch(name, case)), "")


def build(folder):
    """The cases' programs, and what they work with."""
    go = shutil.which("go")
    if not go:
        pytest.skip("go is not installed: apt-get install golang-go")
    source = pathlib.Path(SOURCE)
    env = os.environ | {"GOFLAGS": "-mod=vendor", "GO111MODULE": "on", "GOCACHE": str(folder / "cache")}
    cases = [p.parent for p in sorted((source / "validation").glob("*/*.go")) if p.parent.name not in ("util", "cgroups")]
    for name, where in [("runtimetest", source / "cmd/runtimetest"), *((f"{case.name}.t", case) for case in dict.fromkeys(cases))]:
        made = subprocess.run([go, "build", "-tags", "netgo osusergo", "-ldflags", "-extldflags -static", "-o", folder / name,
                               f"./{where.relative_to(source)}"], cwd=source, env=env | {"CGO_ENABLED": "0"}, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.copy(source / "rootfs-amd64.tar.gz", folder)
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return pathlib.Path(BUILT) if BUILT else build(tmp_path_factory.mktemp("validation"))


def mounts():
    return {line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()}


def run(suite, case):
    """None when the case passes, otherwise what it said."""
    with tempfile.TemporaryDirectory(prefix="oci-", ignore_cleanup_errors=True) as tmp:
        os.chmod(tmp, 0o755)
        try:
            r = subprocess.run([suite / case], cwd=suite, env=os.environ | {"RUNTIME": RUNTIME, "TMPDIR": tmp}, stdin=subprocess.DEVNULL,
                               capture_output=True, text=True, errors="replace", timeout=300)
        except subprocess.TimeoutExpired:
            return "no end"
        finally:
            for where in sorted((m for m in mounts() if m.startswith(tmp)), reverse=True):
                subprocess.run(["umount", "-l", where])
    bad = re.findall(r"(?m)^\s*not ok .*", r.stdout)
    # Some tell of a failure in a comment only.
    silent = not re.search(r"(?m)^\s*ok ", r.stdout) and '"error":' in r.stdout
    return None if r.returncode == 0 and not bad and not silent else "\n".join([*bad[:8], *(r.stdout[-400:].splitlines() if silent else []), r.stderr[-400:]])


def test_suite(suite):
    cases = sorted(p.name for p in suite.glob("*.t"))
    assert len(cases) > 50
    failed = {}
    for case in cases:
        # Many of them wait for a second, and take it that all is done then.
        for _ in range(3):
            said = run(suite, case)
            if said is None:
                break
        if said is not None:
            failed[case.removesuffix(".t")] = said
    print(f"{RUNTIME}: {len(cases) - len(failed)} of {len(cases)} cases pass")
    for case, said in failed.items():
        print(f"-- {case}: {explained(case)}\n   {said.strip()[:1500]}")
    missing = {case: said for case, said in failed.items() if not explained(case)}
    assert not missing, "\n".join(f"{case}:\n{said}" for case, said in missing.items())
