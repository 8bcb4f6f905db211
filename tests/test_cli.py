# SPDX-License-Identifier: Apache-2.0
"""The command: help, wrong usage, bad input, the terminal, pipes, signals and traces. Guests here are a few bytes of
machine code, so that nothing depends on a kernel."""
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import termios
import time

import pexpect
import pytest

pytestmark = pytest.mark.plures

# 32-bit code that multiboot kernels begin with.
POWER_OFF = bytes.fromhex("66ba0406 66b80034 66ef")  # mov dx, 0x604; mov ax, 0x3400; out dx, ax
HALT = bytes.fromhex("fa f4 ebfd")                   # cli; again: hlt; jmp again
SPIN = bytes.fromhex("ebfe")
TALK = bytes.fromhex("66baf803 b078 ee ebfd")        # mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
HELLO = b"".join(bytes.fromhex("66baf803 b0") + bytes([c]) + b"\xee" for c in b"hello\r\n")
# UART: FIFO on, DTR and RTS; then echoes bytes until a 'q'.
ECHO = bytes.fromhex("66bafa03 b001 ee 66bafc03 b003 ee"
                     "66bafd03 ec a801 74f7 66baf803 ec ee 3c71 75ed") + POWER_OFF + HALT
TRIPLE_FAULT = bytes.fromhex("0f0b")
RESET = bytes.fromhex("66baf90c b006 ee ebfe")
DEBUG_EXIT = bytes.fromhex("b015 e6f4 ebfe")

CPU_TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def guest(tmp_path):
    """guest(code): a kernel file, multiboot 1 in a 32-bit ELF, that runs the code at 1 MiB."""
    def make(code):
        base, start = 0x100000, 128
        image = bytearray(start) + code
        struct.pack_into("<4s5B7xHHIIIIIHHHHHH", image, 0, b"\x7fELF", 1, 1, 1, 0, 0, 2, 3, 1, base + start, 52, 0, 0,
                         52, 32, 1, 40, 0, 0)
        struct.pack_into("<8I", image, 52, 1, 0, base, base, len(image), len(image), 7, 0x1000)
        struct.pack_into("<III", image, 96, 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
        path = tmp_path / "guest"
        path.write_bytes(image)
        return path
    return make


def command(plures, kernel, *options):
    return [str(plures), "run", "--kernel", str(kernel), "--memory", "16M", *map(str, options)]


def run(argv, timeout=30, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(list(map(str, argv)), timeout=timeout, capture_output="stdout" not in options, **options)


def one_line(result, status, *words):
    """The command failed with the status and one line on stderr that has the words."""
    text = result.stderr.decode()
    assert result.returncode == status, text
    assert text.count("\n") == 1 and text.startswith("plures: ") and len(text) < 400, text
    for word in words:
        assert word in text, text


# ---- help and information ----

def test_help_and_version(plures):
    r = run([plures, "--help"])
    assert r.returncode == 0 and b"NAME\n" in r.stdout and b"EXIT STATUS\n" in r.stdout and not r.stderr
    for verb in re.findall(rb"^ {7}([a-z]+) {2,}[a-z]", r.stdout, re.M):
        page = run([plures, verb.decode(), "--help"])
        assert page.returncode == 0 and b"SYNOPSIS\n" in page.stdout and b"OPTIONS\n" in page.stdout
        assert max(map(len, page.stdout.splitlines())) <= 80
        assert run([plures, "help", verb.decode()]).stdout == page.stdout
    assert re.fullmatch(rb"plures \d+\.\d+\.\d+\n", run([plures, "--version"]).stdout)


def test_wrong_usage(plures):
    r = run([plures])
    assert r.returncode == 2 and b"SYNOPSIS" in r.stderr and not r.stdout
    one_line(run([plures, "walk"]), 2, "walk", "--help")
    one_line(run([plures, "info", "--yaml"]), 2, "--yaml")


def test_info(plures):
    r = run([plures, "info"])
    assert r.returncode == 0 and b"soft" in r.stdout and b"avx2" in r.stdout
    told = json.loads(run([plures, "info", "--json"]).stdout)
    assert [e["works"] for e in told["engines"] if e["name"] == "soft"] == [True]
    assert {"sse2", "tsc_deadline_timer", "kvm_clocksource2"} <= set(told["guest_features"])
    assert told["memory_limit"] > 64 << 20


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["info"], ["info", "--json"], ["--version"]])
def test_a_full_disk_for_stdout(plures, argv):
    with open("/dev/full", "w") as full:
        r = subprocess.run([plures, *argv], stdout=full, stderr=subprocess.PIPE, timeout=30)
    one_line(r, 1, "standard output", "No space left")


# ---- bad input ----

@pytest.mark.parametrize("options, status, words", [
    (["--memory", "0"], 2, ["--memory 4M"]),
    (["--memory", "1M"], 2, ["--memory 4M"]),
    (["--memory", "lots"], 2, ["--memory", "lots"]),
    (["--memory", "-1"], 2, ["--memory"]),
    (["--memory", "4097K"], 2, ["--memory"]),
    (["--memory", "900T"], 1, []),
    (["--cpus", "0"], 2, ["--cpus 1 to"]),
    (["--cpus", "1000"], 2, ["--cpus 1 to"]),
    (["--cpus", "two"], 2, ["--cpus", "two"]),
    (["--cpus"], 2, ["--cpus N"]),
    (["--colour"], 2, ["--colour", "--help"]),
    (["--memory=64M", "extra"], 2, ["extra"]),
    (["--no-kernel"], 2, ["--no-kernel"]),
    (["--engine", "warp"], 2, ["warp", "soft"]),
    (["--engine", "soft", "--engine-options", "faster"], 1, ["faster"]),
    (["--trace", "everything"], 2, ["everything", "pio"]),
    (["--trace", "pio", "--trace-file", "/nowhere/trace"], 1, ["/nowhere/trace"]),
    (["--trace", "pio", "--trace-file", "/dev/full"], 1, ["/dev/full", "No space left"]),
    (["--initrd", "/nowhere/initrd"], 1, ["/nowhere/initrd"]),
    (["--append", "x" * 70000], 1, ["command line"]),
])
def test_bad_options(plures, guest, options, status, words):
    argv = command(plures, guest(HELLO + POWER_OFF + HALT)) + options
    if options[0].startswith("--memory"):
        argv = [a for i, a in enumerate(argv) if a not in ("--memory", "16M") or i > 5]
    one_line(run(argv), status, *words)


def test_no_kernel(plures):
    one_line(run([plures, "run"]), 2, "--kernel")


def bzimage_head(setup_sects=4, size=0x100000):
    head = bytearray(1024)
    head[0x1F1] = setup_sects
    struct.pack_into("<I", head, 0x1F4, size // 16)
    struct.pack_into("<HH4sH", head, 0x1FE, 0xAA55, 0x66EB, b"HdrS", 0x020F)
    head[0x211] = 1
    return bytes(head)


@pytest.mark.parametrize("content", [
    None, b"", b"this is a text\n" * 100, b"\x7fELF", bzimage_head(),
    b"MZ" + bytes(54) + b"ARMd" + bytes(4096), os.urandom(65536), bytes(1 << 20),
], ids=["missing", "empty", "text", "elf-magic", "truncated-bzimage", "arm64", "random", "zeros"])
def test_bad_kernels(plures, tmp_path, content):
    path = tmp_path / "kernel"
    if content is not None:
        path.write_bytes(content)
    one_line(run(command(plures, path)), 1, str(path))


def test_a_folder_as_kernel_and_an_initrd_that_is_too_large(plures, guest, tmp_path):
    one_line(run(command(plures, tmp_path)), 1, str(tmp_path))
    large = tmp_path / "initrd"
    with open(large, "wb") as f:
        f.truncate(64 << 20)
    one_line(run(command(plures, guest(HALT), "--initrd", large)), 1, "initrd", "memory")


def test_more_memory_than_the_host_has(plures, guest):
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    argv = [plures, "run", "--kernel", guest(HALT), "--memory", f"{(pages >> 30) + 4096}G"]
    one_line(run(argv), 1)


# ---- ends ----

@pytest.mark.parametrize("code, options, status", [
    (POWER_OFF + SPIN, [], 0),
    (RESET, ["--no-reboot"], 0),
    (DEBUG_EXIT, ["--debug-exit"], 43),
    (HELLO + POWER_OFF + HALT, ["--no-debug-exit", "--cpus", "4"], 0),
], ids=["power-off", "reset", "debug-exit", "hello"])
def test_ends(plures, guest, code, options, status):
    r = run(command(plures, guest(code), *options))
    assert r.returncode == status and not r.stderr, r.stderr
    assert r.stdout == (b"hello\r\n" if code.startswith(HELLO) else b"")


def test_a_triple_fault_says_where(plures, guest):
    r = run(command(plures, guest(TRIPLE_FAULT)))
    one_line(r, 3, "triple fault", "0000100080")


def test_verbose_says_what_machine_it_is(plures, guest):
    r = run(command(plures, guest(POWER_OFF + HALT), "-v", "--cpus", "2"))
    assert r.returncode == 0 and b"16M of memory, 2 CPUs, engine soft" in r.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("code", [SPIN, HALT, TALK], ids=["spinning", "halted", "blocked on a full pipe"])
def test_signals_end_the_machine(plures, guest, number, code):
    p = subprocess.Popen(command(plures, guest(code), "--cpus", "2"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    time.sleep(0.7)
    assert p.poll() is None
    p.send_signal(number)
    assert p.wait(timeout=60) == 3
    assert signal.Signals(number).name in p.stderr.read().decode()


def test_a_halted_guest_costs_nothing(plures, guest):
    p = subprocess.Popen(command(plures, guest(HALT), "--cpus", "2"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    def spent():
        fields = pathlib.Path(f"/proc/{p.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CPU_TICK
    time.sleep(1)
    before = spent()
    time.sleep(3)
    assert spent() - before <= 0.06
    p.terminate()
    assert p.wait(timeout=60) == 3


# ---- the console ----

def test_a_closed_stdout(plures, guest):
    argv = command(plures, guest(TALK))
    r = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *argv], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=30)
    one_line(r, 1, "standard output is closed")


def test_a_reader_that_goes_away(plures, guest):
    p = subprocess.Popen(command(plures, guest(TALK)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    p.stdout.read(100)
    p.stdout.close()
    assert p.wait(timeout=60) == 1
    assert p.stderr.read().decode().count("\n") == 1


def test_console_on_a_full_disk(plures, guest):
    with open("/dev/full", "w") as full:
        r = subprocess.run(command(plures, guest(TALK)), stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                           timeout=30)
    one_line(r, 1, "console", "No space left")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_other_closed_descriptors_do_no_harm(plures, guest, closed):
    argv = command(plures, guest(HELLO + POWER_OFF + HALT))
    r = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *argv], stdout=subprocess.PIPE, timeout=30)
    assert r.returncode == 0 and r.stdout == b"hello\r\n"


def test_a_pipe_is_fed_whole(plures, guest):
    text = bytes(i % 26 + ord("A") for i in range(50000)) + b"q"
    r = run(command(plures, guest(ECHO)), input=text, stdin=None)
    assert r.returncode == 0 and r.stdout == text


def test_a_file_is_fed_and_its_end_is_not_the_machines(plures, guest, tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"no letter that ends it")
    with open(text) as f:
        p = subprocess.Popen(command(plures, guest(ECHO)), stdin=f, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert p.stdout.read(22) == text.read_bytes()
        time.sleep(0.5)
        assert p.poll() is None
        p.terminate()
        assert p.wait(timeout=60) == 3


@pytest.fixture
def terminal(plures, guest):
    """A machine that echoes, on a terminal, when it is up."""
    p = pexpect.spawn(str(plures), command(plures, guest(ECHO))[1:], timeout=20, echo=True)
    wait_for(lambda: not termios.tcgetattr(p.child_fd)[3] & termios.ICANON)
    yield p
    p.close(force=True)


def wait_for(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_restored(p):
    return termios.tcgetattr(p.child_fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG) == \
        termios.ICANON | termios.ECHO | termios.ISIG


def test_keys_are_the_guests(terminal):
    for keys in ("abc", "\x03", "\x1a", "\x04", "\x1b[A", "\r"):
        terminal.send(keys)
        terminal.expect_exact(keys)
    terminal.setwinsize(50, 120)
    terminal.send("still here")
    terminal.expect_exact("still here")
    terminal.send("q")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_escape_leaves_and_restores_the_terminal(plures, guest):
    # A shell holds the terminal, so that its settings can be looked at afterwards.
    argv = " ".join(command(plures, guest(ECHO)))
    p = pexpect.spawn("sh", ["-c", f"{argv}; echo status $?; read line"], timeout=20)
    wait_for(lambda: not termios.tcgetattr(p.child_fd)[3] & termios.ICANON)
    p.send("abc")
    p.expect_exact("abc")
    p.send("\x1d")
    p.expect_exact("status 0")
    assert is_restored(p)
    p.close(force=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGABRT])
def test_the_terminal_is_restored_after_a_signal(plures, guest, number):
    argv = " ".join(command(plures, guest(ECHO)))
    p = pexpect.spawn("sh", ["-c", f"{argv}; echo status $?; read line"], timeout=20)
    wait_for(lambda: not termios.tcgetattr(p.child_fd)[3] & termios.ICANON)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(p.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[0]), number)
    p.expect(r"status \d+")
    assert is_restored(p)
    p.close(force=True)


# ---- traces ----

def test_traces_of_io(plures, guest, tmp_path):
    trace = tmp_path / "trace"
    r = run(command(plures, guest(HELLO + POWER_OFF + HALT), "--trace", "pio,mmio", "--trace-file", trace))
    assert r.returncode == 0
    lines = trace.read_text().splitlines()
    assert any(re.match(r"pio cpu0 write 0x3f8/1 <- 0x68 \(.+\)$", line) for line in lines), lines[:5]
    assert any(line.startswith("pio cpu0 write 0x604/2 <- 0x3400") for line in lines)


def test_traces_of_the_engine(plures, guest, tmp_path):
    trace = tmp_path / "trace"
    r = run(command(plures, guest(HELLO + POWER_OFF + HALT), "--trace=in_asm,exec,int", f"--trace-file={trace}"))
    assert r.returncode == 0
    assert re.search(r"\bout dx, al\b", trace.read_text())


def test_a_trace_without_a_file_goes_to_stderr(plures, guest):
    r = run(command(plures, guest(POWER_OFF + HALT), "--trace", "pio"))
    assert r.returncode == 0 and b"pio cpu0 write 0x604/2" in r.stderr


def test_a_disk_that_fills_up_while_tracing_ends_the_machine(plures, guest):
    with open("/dev/null", "w") as null:
        r = subprocess.run(command(plures, guest(TALK), "--trace", "pio", "--trace-file", "/dev/full"),
                           stdin=subprocess.DEVNULL, stdout=null, stderr=subprocess.PIPE, timeout=30)
    one_line(r, 1, "/dev/full", "No space left")
