# SPDX-License-Identifier: Apache-2.0
"""What a machine asks of its host: no rights, no device files, little memory and, while the guest idles, little time."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time

import pytest

import machine
import nested

pytestmark = pytest.mark.plures
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--no-new-privs"]


@pytest.fixture(scope="module")
def open_folder():
    """A folder that anyone can read, whatever the rights of the folders around the source tree are."""
    with tempfile.TemporaryDirectory(prefix="plures-test-") as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.fixture(scope="module")
def copies(plures, kernel, initramfs, open_folder):
    """(program, kernel, initrd) in that folder."""
    paths = []
    for name, path in (("plures", plures), ("vmlinuz", kernel()), ("initrd", initramfs("id -u; nproc; echo all well"))):
        shutil.copy(path, open_folder / name)
        os.chmod(open_folder / name, 0o755)
        paths.append(open_folder / name)
    return paths


def arguments(copies, **options):
    argv = machine.plures(copies[1], initrd=copies[2], append=f"{machine.CONSOLE} quiet", cpus=2, **options)
    return [str(copies[0]), *argv[1:]]


def well(vm):
    assert vm.code == 0 and "all well" in vm.output, f"{vm.output[-3000:]}{vm.errors}(exit status {vm.code})"


def test_unprivileged_user_without_device_files(copies):
    """No rights, and not one file in /dev: not even /dev/null."""
    if os.geteuid():
        well(machine.run(arguments(copies), timeout=60))
        pytest.skip("booted as this user; only root can take /dev away")
    script = 'mount -t tmpfs none /dev && exec "$@"'
    vm = machine.run(["unshare", "--mount", "sh", "-c", script, "sh", *AS_NOBODY, *arguments(copies)], timeout=60)
    well(vm)


def test_few_resources(copies):
    """With the limits that a shared machine sets: 64 files, no core, no locked memory, 60 processes' worth of threads."""
    limits = "ulimit -n 64 && ulimit -c 0 && ulimit -l 0 && exec \"$@\""
    well(machine.run(["bash", "-c", limits, "sh", *arguments(copies)], timeout=60))


def podman_environment(home):
    """Podman's state is kept in a folder that goes away; nothing of the user's own is touched."""
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "TMPDIR": str(home / "tmp"), "PATH": os.environ["PATH"] + ":/usr/sbin"}


def stop_pause_process(home):
    """Rootless podman leaves a process behind that holds its namespaces."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((home / "run/libpod/tmp/pause.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def podman(open_folder, copies):
    """podman(arguments...) as an unprivileged user, with an image `plures-test` that holds the command and a guest."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    runtime = shutil.which("runc") or shutil.which("runc", path="/usr/sbin:/sbin")
    home = pathlib.Path(tempfile.mkdtemp(prefix="plures-podman-"))
    for name in ("run", "tmp"):
        (home / name).mkdir(mode=0o700)
    if os.geteuid() == 0:
        for path in (home, home / "run", home / "tmp"):
            os.chown(path, NOBODY, NOBODY)
    image = open_folder / "image.tar"
    with tarfile.open(image, "w") as tar:
        for path in copies:
            tar.add(path, path.name)
        for name, path in nested.libraries(copies[0]).items():
            tar.add(path, name)
    # crun does not work where both versions of cgroups are mounted; runc does.
    base = ["podman", *(["--runtime", runtime] if runtime else []), "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs",
            "--events-backend", "file"]
    prefix = [w for w in AS_NOBODY if w != "--no-new-privs"] if os.geteuid() == 0 else []

    def command(*args):
        return ["env", "--chdir", str(home), "-i", *(f"{k}={v}" for k, v in podman_environment(home).items()), *prefix, *base, *args]

    made = subprocess.run(command("import", str(image), "plures-test"), capture_output=True, text=True, timeout=120)
    if made.returncode:
        stop_pause_process(home)
        shutil.rmtree(home, ignore_errors=True)
        pytest.skip(f"podman does not work here: {made.stderr.strip().splitlines()[-1:]}")
    yield command
    stop_pause_process(home)
    shutil.rmtree(home, ignore_errors=True)


def test_rootless_container(podman, copies):
    """Under Podman's default seccomp profile, with no network and no devices but the usual ones."""
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none"]
    inside = ["/plures", *arguments(("/plures", "/vmlinuz", "/initrd"))[1:]]
    vm = machine.run(podman("run", "--rm", "-i", *limits, "plures-test", *inside), timeout=120)
    if vm.code in (125, 126, 127) and "plures:" not in vm.errors:
        pytest.skip(f"podman does not run containers here: {vm.errors.strip().splitlines()[-1:]}")
    well(vm)


# --- what a machine costs -------------------------------------------------------------------------------------------

@contextlib.contextmanager
def idle_machine(kernel, initramfs, memory="512M", cpus=1, script="echo idle; sleep 1000"):
    with machine.Machine(machine.plures(kernel(), initrd=initramfs(script), append=f"{machine.CONSOLE} quiet", memory=memory,
                                        cpus=cpus)) as vm:
        assert vm.read_until(r"\nidle\n", timeout=60), vm.output + vm.errors
        yield vm


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name,cpus", [("cloud", 1), ("cloud", 2), pytest.param("generic", 2, marks=pytest.mark.slow)])
def test_idle_guest_costs_little_time(plures, kernel, initramfs, name, cpus):
    with idle_machine(lambda: kernel(name), initramfs, cpus=cpus) as vm:
        share = 1
        for _ in range(12):  # the kernel still has things to do after its init is up, for long on a busy host
            before, start = cpu_seconds(vm.pid), time.monotonic()
            time.sleep(5)
            share = min(share, (cpu_seconds(vm.pid) - before) / (time.monotonic() - start))
            if share < 0.02:
                break
    assert share < 0.02, f"an idle guest with {cpus} CPUs takes {share:.1%} of a host CPU"


def mappings(pid):
    """(device and inode, name, resident kilobytes) of each mapping."""
    head = None
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        match = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+) *(.*)", line)
        if match:
            head = match
        elif line.startswith("Rss:"):
            yield (head[1], head[2]), head[3], int(line.split()[1])


def overhead(pid):
    """Megabytes that the process holds beside guest memory. A page that two mappings show counts once, by its file."""
    private, shared = 0, {}
    for inode, name, resident in mappings(pid):
        if "memfd:" in name and "plures-code" not in name:
            continue
        if "memfd:" in name:
            shared.setdefault(inode, []).append(resident)
        else:
            private += resident
    return (private + sum(max(r) for r in shared.values())) / 1024


@pytest.mark.parametrize("memory,cpus", [("512M", 1), ("512M", 2), ("6G", 2)])
def test_memory_beyond_the_guests(plures, kernel, initramfs, suite, memory, cpus):
    """Under 80 MB after a boot and a run of the whole suite, which fills half of what translations have (68 MB with their metadata)."""
    archive = initramfs("suite >/dev/null 2>&1; echo idle; sleep 1000", {"bin/suite": suite(64)})
    with idle_machine(kernel, lambda _: archive, memory, cpus) as vm:
        megabytes = overhead(vm.pid)
        listing = "\n".join(f"{name or 'anonymous'} {kb} kB" for _, name, kb in mappings(vm.pid) if kb > 1024)
    assert megabytes < 80, f"{megabytes:.0f} MB beside the guest's memory:\n{listing}"


def test_untouched_memory_is_not_taken(plures, kernel, initramfs):
    """Of 6 GB that an idle guest has, it has touched little: its page structures, mostly."""
    with idle_machine(kernel, initramfs, "6G") as vm:
        resident = sum(kb for _, name, kb in mappings(vm.pid) if "memfd:" in name) // 1024
    assert resident < 512, f"{resident} MB of guest memory are resident"


# --- leaving ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(plures, kernel, initramfs, number):
    with idle_machine(kernel, initramfs) as vm:
        vm.process.send_signal(number)
        code = vm.wait(20)
    assert code != 0, code
    assert len(vm.errors.strip().splitlines()) <= 1, vm.errors


def test_killed_process_leaves_nothing(plures, kernel, initramfs):
    def left():
        return {p for p in pathlib.Path("/dev/shm").iterdir()} if os.path.isdir("/dev/shm") else set()
    before = left()
    with idle_machine(kernel, initramfs) as vm:
        vm.kill()
    assert left() == before


def test_two_machines_at_once(plures, kernel, initramfs):
    with idle_machine(kernel, initramfs) as a, idle_machine(kernel, initramfs) as b:
        assert a.pid != b.pid
