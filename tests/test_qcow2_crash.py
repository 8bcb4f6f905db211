# SPDX-License-Identifier: Apache-2.0
"""Nothing acknowledged is lost and no image is damaged, wherever a writer ends: killed while it writes, or with the power gone, after
which any of the writes since the last flush may be there or not. Leaked clusters are allowed."""
import random
import shutil
import signal
import struct
import subprocess
import time

import pytest

from test_qcow2 import MIB, create, img, tool  # noqa: F401

pytestmark = [pytest.mark.plures, pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")]
SPAN = 4 * MIB  # of hammer's numbered writes; behind it, 8 MiB where it writes and discards
SIZE = 16 * MIB
READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES, GROWN, FLUSHED = 0, 1, 2, 3, 4, 100, 101


def undamaged(path):
    end = time.monotonic() + 30
    while True:
        done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, timeout=120)
        # The kernel closes what an io_uring holds some time after the process is gone.
        if "lock" not in done.stderr or time.monotonic() > end:
            break
        time.sleep(0.05)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: leaks only


def prepare(tmp_path, options):
    """An image with what makes writes hard: compressed clusters, or a snapshot that shares them."""
    image, raw = tmp_path / "a.qcow2", tmp_path / "zero.raw"
    if "compressed" in options:
        with open(raw, "wb") as f:
            f.truncate(SIZE)
            f.seek(SPAN)
            f.write(b"words and words\n" * (8 * MIB // 16))
        img("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", raw, image)
    else:
        create(image, options.removesuffix(",snapshot"), SIZE)
        if "snapshot" in options:
            subprocess.run(["qemu-io", "-c", f"write -P 7 {SPAN} 8M", image], check=True, capture_output=True)
            img("snapshot", "-c", "first", image)
    return image


OPTIONS = ["cluster_size=64k", "cluster_size=512", "compressed", "cluster_size=4k,snapshot", "extended_l2=on", "compat=0.10"]


@pytest.mark.parametrize("options", OPTIONS)
def test_killed_while_it_writes(tool, tmp_path, options):  # noqa: F811
    image = prepare(tmp_path, options)
    first = image.read_bytes()
    r = random.Random(options)
    for seed in range(1, 10):
        image.write_bytes(first)
        writer = subprocess.Popen([tool.path, "hammer", image, str(seed), "1000000", str(SPAN)], stdout=subprocess.PIPE, text=True)
        for _ in range(r.randrange(1, 40)):
            last = writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        last = ([last] + writer.stdout.readlines())[-1]
        writer.wait()
        undamaged(image)
        tool("verify", f"{image}", seed, int(last), SPAN)


def records(log):
    """(op, offset, size, bytes) of each."""
    data, at = log.read_bytes(), 0
    while at + 24 <= len(data):
        op, offset, size = struct.unpack_from("=QQQ", data, at)
        at += 24
        length = size if op == WRITE else 0
        yield op, offset, size, data[at:at + length]
        at += length


def apply(image, record):
    op, offset, size, data = record
    if op == GROWN:
        image.extend(bytes(max(0, offset - len(image))))
    elif op in (WRITE, DISCARD, WRITE_ZEROES):
        image.extend(bytes(max(0, offset + size - len(image))))
        image[offset:offset + size] = data or bytes(size)


def torn(record, r):
    """A write that got as far as some sector."""
    op, offset, size, data = record
    size = r.randrange(0, size + 1, 512)
    return op, offset, size, data[:size]


@pytest.mark.parametrize("options", OPTIONS)
def test_power_loss(tool, tmp_path, options):  # noqa: F811
    image, log = prepare(tmp_path, options), tmp_path / "log"
    crashed = tmp_path / "crashed.qcow2"
    first = bytearray(image.read_bytes())
    tool("hammer", f"{image},record={log}", 5, 400, SPAN)
    history = list(records(log))
    r = random.Random(options)
    cuts = sorted(r.randrange(len(history)) for _ in range(12))
    done, stable, flushed = 0, first, 0
    for cut in cuts:
        # What the last flush before the cut has made stable is there.
        flushes = [i for i in range(done, cut) if history[i][0] == FLUSH]
        if flushes:
            for record in history[done:flushes[-1]]:
                apply(stable, record)
                flushed = record[1] if record[0] == FLUSHED else flushed
            done = flushes[-1]
        state, acknowledged = bytearray(stable), flushed
        for record in history[done:cut]:
            if record[0] == FLUSHED:
                acknowledged = record[1]
            elif r.random() < 0.5:
                apply(state, torn(record, r) if record[0] == WRITE and r.random() < 0.2 else record)
        crashed.write_bytes(state)
        undamaged(crashed)
        tool("verify", f"{crashed}", 5, acknowledged, SPAN)
