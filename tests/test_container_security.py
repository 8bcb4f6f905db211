# SPDX-License-Identifier: Apache-2.0
"""plures-oci against hostile images and configurations: seccomp, known escapes, bad input."""
import array
import json
import os
import pathlib
import socket
import stat
import struct
import subprocess
import threading
import time

import pexpect
import pytest

import containers
from containers import CONFIG, config, mount, shell

pytestmark = [pytest.mark.plures, pytest.mark.skipif(bool(containers.usable()), reason=str(containers.usable()))]


@pytest.fixture
def runtime():
    r = containers.Runtime()
    yield r
    r.close()


# --- seccomp --------------------------------------------------------------------------------------------------------------

def seccomp(*rules, default="SCMP_ACT_ALLOW", **more):
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": list(rules), **more}


def rule(name, action, *args, **more):
    return {"names": [name], "action": action, "args": [dict(zip(("index", "value", "valueTwo", "op"), a)) for a in args], **more}


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("action,expected", [("SCMP_ACT_ERRNO", 1), ("SCMP_ACT_KILL_PROCESS", 128 + 31), ("SCMP_ACT_KILL", 128 + 31),
                                             ("SCMP_ACT_TRAP", 128 + 31), ("SCMP_ACT_LOG", 0), ("SCMP_ACT_ALLOW", 0), ("SCMP_ACT_TRACE", 1)])
def test_seccomp_actions(runtime, action, expected, no_new_privileges):
    more = {"errnoRet": 13} if action == "SCMP_ACT_ERRNO" else {}
    r = runtime.run(shell("mkdir /tmp/x; s=$?; rm -rf /tmp/x; exit $s", root__readonly=False, process__noNewPrivileges=no_new_privileges,
                          linux__seccomp=seccomp(rule("mkdir", action, **more), rule("mkdirat", action, **more))))
    assert r.returncode == expected, r.stderr
    if action == "SCMP_ACT_ERRNO":
        assert "Permission denied" in r.stderr


# chmod(path, mode): busybox's chmod gives the mode as it is told.
@pytest.mark.parametrize("op,value,two,mode,refused", [
    ("SCMP_CMP_EQ", 0o700, 0, "700", True), ("SCMP_CMP_EQ", 0o700, 0, "701", False), ("SCMP_CMP_NE", 0o700, 0, "701", True),
    ("SCMP_CMP_LT", 0o700, 0, "600", True), ("SCMP_CMP_LT", 0o700, 0, "700", False), ("SCMP_CMP_LE", 0o700, 0, "700", True),
    ("SCMP_CMP_GT", 0o700, 0, "700", False), ("SCMP_CMP_GE", 0o700, 0, "700", True), ("SCMP_CMP_MASKED_EQ", 0o070, 0o050, "755", True),
    ("SCMP_CMP_MASKED_EQ", 0o070, 0o050, "745", False)])
def test_seccomp_comparisons(runtime, op, value, two, mode, refused):
    c = shell(f"touch /tmp/x; chmod {mode} /tmp/x", root__readonly=False,
              linux__seccomp=seccomp(rule("chmod", "SCMP_ACT_ERRNO", (1, value, two, op)), rule("fchmodat", "SCMP_ACT_ERRNO", (2, value, two, op))))
    r = runtime.run(c)
    assert (r.returncode != 0) == refused, r.stderr


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_seccomp_default_action_and_big_values(runtime, no_new_privileges, uid):
    """What the program needs is all that a filter must allow, besides capset for who may gain privileges: profiles that are older
    than a system call refuse it."""
    allowed = seccomp({"names": ["read", "write", "open", "openat", "close", "exit_group", "exit", "brk", "mmap", "munmap", "arch_prctl", "execve",
                                 "set_tid_address", "set_robust_list", "rseq", "prlimit64", "getuid", "readlink", "getrandom", "mprotect",
                                 "newfstatat", "fstat", "stat", "poll", "futex", "sendfile", "readlinkat"] + ["capset"] * (not no_new_privileges),
                       "action": "SCMP_ACT_ALLOW"}, default="SCMP_ACT_ERRNO", defaultErrnoRet=95)
    c = config("cat", "/etc/passwd", linux__seccomp=allowed, process__noNewPrivileges=no_new_privileges, process__user={"uid": uid, "gid": uid})
    assert "root" in runtime.output(c)
    c["process"]["args"] = ["cat", "/proc/self/status"]
    effective = next(line.split()[1] for line in runtime.output(c).splitlines() if line.startswith("CapEff"))
    assert int(effective, 16) == (0 if uid else 1 << 29 | 1 << 5 | 1 << 10)
    c["process"]["args"] = ["mkdir", "/tmp/x"]
    r = runtime.run(c)
    assert r.returncode == 1 and "Operation not supported" in r.stderr
    c = config("true", linux__seccomp=seccomp(rule("mkdir", "SCMP_ACT_ERRNO", (1, 18446744073709551615, 0, "SCMP_CMP_EQ"))))
    assert runtime.run(c).returncode == 0


def test_seccomp_notify(runtime):
    """An agent at the listener answers mkdir with an errno of its own."""
    path = runtime.folder / "agent"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    got = {}

    def agent():
        import fcntl
        s, _ = server.accept()
        data, ancillary, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(16))
        got["state"] = json.loads(data)
        listener = array.array("i", ancillary[0][2])[0]
        receive, send = 0xc0502100, 0xc0182101
        while True:
            buffer = bytearray(80)
            try:
                fcntl.ioctl(listener, receive, buffer)
            except OSError:
                break
            ident, = struct.unpack_from("Q", buffer)
            got["call"] = struct.unpack_from("i", buffer, 16)[0]
            fcntl.ioctl(listener, send, bytearray(struct.pack("QqiI", ident, 0, -122, 0)))
        os.close(listener)

    thread = threading.Thread(target=agent, daemon=True)
    thread.start()
    c = config("mkdir", "/tmp/x", linux__seccomp=seccomp(rule("mkdir", "SCMP_ACT_NOTIFY"), listenerPath=str(path), listenerMetadata="meta"))
    name = runtime.name()
    r = runtime.run(c, name=name)
    assert r.returncode == 1 and "Disk quota exceeded" in r.stderr
    assert got["call"] == 83 and got["state"]["metadata"] == "meta" and got["state"]["fds"] == ["seccompFd"]
    assert got["state"]["state"]["id"] == name and got["state"]["pid"] > 0
    server.close()


# --- escapes --------------------------------------------------------------------------------------------------------------

def test_links_in_the_image_stay_inside(runtime):
    """Mount points that are symbolic links to the host's folders are the root's own folders of that name."""
    victim = runtime.folder / "victim"
    victim.mkdir()
    (runtime.rootfs / "escape").symlink_to(victim)
    (runtime.rootfs / "up").symlink_to("../../../../../../../.." + str(victim))
    extra = [mount(f"/{name}/made", "tmpfs") for name in ("escape", "up")]
    out = runtime.output(config("cat", "/proc/self/mountinfo", mounts=CONFIG["mounts"] + extra))
    assert list(victim.iterdir()) == []
    assert f" {victim}/made " in out


def test_dangling_link_as_a_mount_point(runtime):
    """What /etc/resolv.conf is in many images."""
    (runtime.folder / "file").write_text("bound\n")
    (runtime.rootfs / "etc/resolv.conf").symlink_to("../run/resolve/stub.conf")
    (runtime.rootfs / "loop").symlink_to("loop")
    c = config("cat", "/etc/resolv.conf", mounts=CONFIG["mounts"] + [mount("/etc/resolv.conf", "none", str(runtime.folder / "file"), "bind")])
    assert runtime.output(c) == "bound\n"
    c["mounts"][-1]["destination"] = "/loop"
    r = runtime.run(c)
    assert r.returncode == 1 and "/loop" in r.stderr and "symbolic links" in r.stderr


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_proc_and_sys_on_no_link(runtime, kind):
    where = "proc" if kind == "proc" else "sys"
    (runtime.rootfs / where).rmdir()
    (runtime.rootfs / where).symlink_to("tmp")
    r = runtime.run(config("true"))
    assert r.returncode == 1 and "symbolic link" in r.stderr


def test_masked_path_behind_a_link(runtime):
    (runtime.rootfs / "secret").write_text("secret\n")
    (runtime.rootfs / "link").symlink_to("/secret")
    (runtime.rootfs / "null").symlink_to("/proc/kmsg")
    c = shell("cat /link /secret")
    c["linux"]["maskedPaths"] = ["/link"]
    assert runtime.output(c) == ""


def test_a_swapped_path_gains_nothing(runtime):
    """CVE-2021-30465: while containers start, a folder on the way to a mount point is swapped for a link to the host, again and again."""
    victim = runtime.folder / "victim"
    victim.mkdir()
    shared = runtime.folder / "shared"
    (shared / "a").mkdir(parents=True)
    (shared / "b").symlink_to("../../../../../../../.." + str(victim))
    swapper = subprocess.Popen(["python3", "-c", f"""
import ctypes, os
libc = ctypes.CDLL(None)
a, b = {str(shared / 'a').encode()!r}, {str(shared / 'b').encode()!r}
while True:
    libc.renameat2(-100, a, -100, b, 2)
"""])
    try:
        for _ in range(30):
            c = config("true", mounts=CONFIG["mounts"] + [mount("/tmp", "none", str(shared), "bind"), mount("/tmp/a/inner", "tmpfs")])
            runtime.run(c)  # it may fail, but only inside
            assert list(victim.iterdir()) == []
    finally:
        swapper.kill()
        swapper.wait()


def test_the_runtime_can_not_be_overwritten(runtime):
    """CVE-2019-5736: a container whose program is /proc/self/exe, and one that looks for the runtime in /proc during exec."""
    before = containers.PROGRAM.read_bytes()
    caps = ["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]
    privileged = {s: caps for s in ("bounding", "effective", "permitted")}
    c = config("/proc/self/exe", "--version", process__capabilities=privileged)
    r = runtime.run(c)
    assert "plures-oci" in r.stdout or r.returncode != 0
    hunter = ("while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || (echo overwritten > $p/exe) 2>/dev/null && echo done; done; done")
    c = shell(hunter, process__capabilities=privileged)
    # A program that is the runtime itself stays there for others to look at.
    name = runtime.create(c)
    runtime.call("start", name, check=True)
    for _ in range(10):
        runtime.call("exec", name, "true")
        r = runtime.call("exec", name, "/proc/self/exe", "--version")
    runtime.call("kill", name, "KILL", check=True)
    assert containers.PROGRAM.read_bytes() == before


def test_the_runtimes_file_seen_from_inside_is_read_only(runtime):
    c = shell("exec 3</proc/self/exe; true")
    name = runtime.create(c)
    # The process that waits for start is the runtime: its file must be on a mount that is read-only, or sealed.
    pid = runtime.state(name)["pid"]
    with pytest.raises(OSError):
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)
    fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
    runtime.call("delete", "--force", name, check=True)
    time.sleep(0.1)
    # With nobody running it any more, "text file busy" is no protection; what remains is.
    with pytest.raises(OSError) as e:
        os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    assert e.value.errno in (30, 1), e.value  # EROFS, EPERM
    os.close(fd)


def test_the_waiting_process_holds_nothing_of_the_host(runtime):
    name = runtime.create(config("true"))
    pid = runtime.state(name)["pid"]
    links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    folders = [path for fd, path in links.items() if os.path.isdir(f"/proc/{pid}/fd/{fd}")]
    assert folders == [], links


def test_working_folder_outside(runtime):
    """CVE-2024-21626: a working folder that is a leaked descriptor of the host's."""
    for fd in range(3, 20):
        r = runtime.run(config("pwd", process__cwd=f"/proc/self/fd/{fd}"))
        assert r.returncode != 0 and "process.cwd" in r.stderr


# --- terminals ------------------------------------------------------------------------------------------------------------

def test_terminal_of_run(runtime):
    bundle = runtime.bundle(config("sh", process__terminal=True, process__consoleSize={"width": 77, "height": 33}))
    argv = runtime.argv("run", "-b", bundle, runtime.name())
    child = pexpect.spawn(argv[0], argv[1:], timeout=30, encoding="utf-8", dimensions=(30, 90))
    child.expect("# ")
    child.sendline("tty; stty size; ls -l /dev/console | head -c 1; echo; echo $((40+2))")
    child.expect("/dev/pts/0")
    child.expect("30 90")
    child.expect("c\r\n")
    child.expect("42")
    child.sendline("exit 6")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 6


def test_console_socket(runtime):
    path = runtime.folder / "console"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    name = runtime.create(shell("tty; stty size", process__terminal=True, process__consoleSize={"width": 71, "height": 21}), "--console-socket", path)
    s, _ = server.accept()
    _, ancillary, _, _ = s.recvmsg(100, socket.CMSG_SPACE(16))
    master = array.array("i", ancillary[0][2])[0]
    runtime.call("start", name, check=True)
    out = b""
    while out.count(b"\n") < 2:
        out += os.read(master, 1000)
    assert out == b"/dev/pts/0\r\n21 71\r\n"
    os.close(master)
    server.close()


def test_terminal_without_a_socket(runtime):
    r = runtime.call("create", "-b", runtime.bundle(config("sh", process__terminal=True)), runtime.name())
    assert r.returncode == 1 and "--console-socket" in r.stderr


# --- bad input ------------------------------------------------------------------------------------------------------------

def change(path, value):
    """The usual configuration with something at a path changed; None removes it."""
    c = config("true")
    *way, last = path
    at = c
    for step in way:
        at = at[step] if isinstance(step, int) else at.setdefault(step, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return c


BAD = [
    (("ociVersion",), None, "ociVersion: is missing"), (("ociVersion",), "2.0.0", "ociVersion"), (("ociVersion",), "x", "ociVersion"),
    (("ociVersion",), 1, "ociVersion: must be a string"),
    (("root",), None, "root: is missing"), (("root", "path"), None, "root.path: is missing"), (("root", "path"), "nowhere", "root.path"),
    (("root", "readonly"), "yes", "root.readonly: must be a boolean"),
    (("process",), None, "process: is missing"), (("process", "args"), None, "process.args: is missing"), (("process", "args"), [], "process.args"),
    (("process", "args"), [1], "process.args[0]: must be a string"), (("process", "cwd"), None, "process.cwd: is missing"),
    (("process", "cwd"), "relative", "process.cwd"), (("process", "cwd"), "/no/where", "process.cwd"),
    (("process", "env"), "A=b", "process.env: must be a list"),
    (("process", "user"), {"uid": -1}, "process.user.uid"), (("process", "user"), {"additionalGids": ["x"]}, "process.user.additionalGids[0]"),
    (("process", "rlimits"), [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "process.rlimits[0].type"),
    (("process", "rlimits"), [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "process.rlimits[0]"),
    (("process", "rlimits"), [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "process.rlimits[1].type"),
    (("process", "capabilities"), [], "process.capabilities: must be an object"),
    (("process", "oomScoreAdj"), 5000, "process.oomScoreAdj"), (("process", "scheduler"), {"policy": "SCHED_X"}, "process.scheduler.policy"),
    (("process", "ioPriority"), {"class": "X"}, "process.ioPriority.class"),
    (("mounts", 0, "destination"), None, "mounts[0].destination: is missing"), (("mounts", 1, "type"), None, "mounts[1].type"),
    (("mounts", 1, "type"), "nofs", "mounts[1] (/dev): type"), (("mounts", 1, "options"), ["size=lots"], "mounts[1] (/dev)"),
    (("mounts", 1), {"destination": "/x", "options": ["bind"]}, "mounts[1].source: is missing"),
    (("mounts", 1), {"destination": "/x", "source": "/no/where", "options": ["bind"]}, "mounts[1] (/x): source"),
    (("mounts", 1, "options"), {}, "mounts[1].options: must be a list"),
    (("linux", "namespaces", 0, "type"), "nonsense", 'linux.namespaces[0].type: "nonsense"'),
    (("linux", "namespaces", 0, "type"), "mount", "linux.namespaces[4].type"), (("linux", "namespaces", 0, "path"), "/no/ns", "/no/ns"),
    (("linux", "namespaces", 0, "path"), "/etc/passwd", "/etc/passwd"), (("linux", "namespaces"), [], "linux.namespaces"),
    (("linux", "namespaces", 3, "type"), "user", "linux.namespaces"),
    (("linux", "uidMappings"), [{"containerID": 0, "hostID": 0, "size": 1}], "linux.uidMappings needs a"),
    (("linux", "devices"), [{"path": "/dev/x", "type": "z"}], "linux.devices[0].type"),
    (("linux", "devices"), [{"path": "/dev/x", "type": "c"}], "linux.devices[0].major: is missing"),
    (("linux", "resources", "memory"), {"limit": "1G"}, "linux.resources.memory.limit: must be a number"),
    (("linux", "resources", "memory"), {"limit": 1 << 30, "swap": 1 << 20}, "linux.resources.memory"),
    (("linux", "resources", "cpu"), {"cpus": "99999"}, "linux.resources.cpu.cpus"), (("linux", "resources", "cpu"), {"quota": 1}, "linux.resources.cpu.quota"),
    (("linux", "resources", "devices"), [{"access": "rwx"}], "linux.resources.devices[0].access"),
    (("linux", "cgroupsPath"), "/a/../../b", "linux.cgroupsPath"), (("linux", "rootfsPropagation"), "x", "linux.rootfsPropagation"),
    (("linux", "maskedPaths"), ["relative"], "linux.maskedPaths[0]"), (("linux", "sysctl"), {"kernel.panic": "1"}, "linux.sysctl.kernel.panic"),
    (("linux", "sysctl"), {"net.no_such": "1"}, "linux.sysctl.net.no_such"), (("linux", "personality"), {"domain": "X"}, "linux.personality.domain"),
    (("linux", "seccomp"), {"defaultAction": "X"}, "linux.seccomp.defaultAction"),
    (("linux", "seccomp"), {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]}, "linux.seccomp.syscalls[0].names"),
    (("linux", "seccomp"), {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}, "linux.seccomp.listenerPath"),
    (("hooks",), {"prestart": [{"path": "relative"}]}, "hooks.prestart[0].path"), (("hooks",), {"poststop": [{}]}, "hooks.poststop[0].path: is missing"),
    (("annotations",), {"a": 1}, "annotations.a: must be a string"), (("linux", "intelRdt"), {"closID": "x"}, "linux.intelRdt"),
]


@pytest.mark.parametrize("path,value,expected", BAD, ids=[f"{i}-{b[2][:40]}" for i, b in enumerate(BAD)])
def test_bad_configuration(runtime, path, value, expected):
    r = runtime.run(change(path, value))
    assert r.returncode in (1, 126, 127) and expected in r.stderr, r.stderr
    assert len(r.stderr.splitlines()) == 1
    assert not runtime.root.exists() or list(runtime.root.iterdir()) == []


def test_configuration_that_is_no_json(runtime):
    for text, expected in (("{", "line 1"), ("[]", "must be an object"), ("", "line"), ('{"ociVersion":"1.0.0","ociVersion":"1.0.0"}', "duplicate")):
        r = runtime.run(text)
        assert r.returncode == 1 and "config.json" in r.stderr and expected in r.stderr, r.stderr
    r = runtime.call("run", "-b", runtime.folder / "nothing", "x")
    assert r.returncode != 0 and "nothing" in r.stderr
    r = runtime.call("run", "-b", runtime.rootfs, "x")
    assert r.returncode != 0 and "config.json" in r.stderr


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "a b", "x" * 300, "../../tmp/x"])
def test_bad_ids(runtime, name):
    for verb in (["run", "-b", str(runtime.bundle(config("true")))], ["state"], ["delete", "--force"], ["kill"], ["exec"]):
        r = runtime.call(*verb, name, *(["true"] if verb == ["exec"] else []))
        assert r.returncode == 1 and "container ID" in r.stderr, (verb, r.stderr)


def test_an_id_in_use(runtime):
    name = runtime.create(config("true"))
    pid = runtime.state(name)["pid"]
    r = runtime.run(config("true"), name=name)
    assert r.returncode == 1 and "already exists" in r.stderr
    assert runtime.state(name)["pid"] == pid and runtime.status(name) == "created"


def test_programs_that_are_not_there(runtime):
    for args, status in ((["nothing"], 127), (["/no/thing"], 127), (["/etc/passwd"], 126), (["/etc"], 126)):
        r = runtime.run(config(*args))
        assert r.returncode == status and "process.args" in r.stderr and args[0] in r.stderr
        assert list(runtime.root.iterdir()) == []


def test_wrong_usage(runtime):
    for args in ([], ["nonsense"], ["--nonsense"], ["run"], ["state"], ["state", "a", "b"], ["run", "--nonsense", "x"], ["run", "-b"],
                 ["--log-format", "xml", "list"], ["--log", "/no/where/log", "list"]):
        r = runtime.call(*args)
        assert r.returncode == 2 and r.stderr.startswith("plures-oci: ") and len(r.stderr.splitlines()) == 1, (args, r.stderr)
    for args in (["list", "--format", "x"], ["kill", "x", "NOSIG"], ["checkpoint", "x"]):
        assert runtime.call(*args).returncode == 1


def test_errors_in_a_json_log(runtime):
    log = runtime.folder / "log.json"
    r = runtime.call("--log", log, "--log-format", "json", "state", "nothing")
    line = json.loads(log.read_text().splitlines()[-1])
    assert r.returncode == 1 and line["level"] == "error" and "does not exist" in line["msg"] and line["time"]
    runtime.call("--log", log, "--log-format", "json", "run", "-b", runtime.bundle('{"ociVersion": "1.0\\u0001\\"\\n"}'), "x")
    assert json.loads(log.read_text().splitlines()[-1])["level"] == "error"
