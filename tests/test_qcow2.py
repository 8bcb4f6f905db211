# SPDX-License-Identifier: Apache-2.0
"""qcow2 images against qemu-img: what it makes is read, what we write it finds whole, and what is wrong is said in one line.
The disk is played by test-block-block_tool (src/block/block_tool_test.c), which opens it as the program does."""
import os
import pathlib
import random
import shutil
import struct
import subprocess

import pytest

import machine

pytestmark = [pytest.mark.plures, pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")]
MIB = 1 << 20
SIZE = 24 * MIB


@pytest.fixture(scope="session")
def tool():
    path = pathlib.Path(machine.plures_path()).parent / "test-block-block_tool"
    if not path.exists():
        pytest.skip(f"{path} is not there: a build with unit tests has it")

    def run(*args, ok=True):
        done = subprocess.run([path, *map(str, args)], capture_output=True, text=True, timeout=120)
        assert not ok or done.returncode == 0, done.stderr
        return done
    run.path = path
    return run


def img(*args):
    return subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, text=True, timeout=120).stdout


def create(path, options="", size=SIZE, backing=None, form="qcow2"):
    args = ["-b", backing, "-F", form] if backing else []
    img("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *args, path, size)


def check(path):
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def same(path, model):
    img("compare", "-q", "-f", "qcow2", "-F", "raw", path, model)


@pytest.fixture
def source(tmp_path):
    """A raw disk with text, noise and holes."""
    r = random.Random(1)
    path = tmp_path / "source.raw"
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for i in range(120):
            size = r.randrange(1, 300) * 512
            f.seek(r.randrange((SIZE - size) // 512) * 512)
            f.write((b"line %d\n" % i * size)[:size] if i % 2 else r.randbytes(size))
    return path


VARIANTS = ["compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=2M", "refcount_bits=1",
            "refcount_bits=64,cluster_size=512", "refcount_bits=8,cluster_size=4k", "extended_l2=on", "extended_l2=on,cluster_size=16k",
            "lazy_refcounts=on", "preallocation=metadata"]
COMPRESSED = ["compression_type=zlib", "compression_type=zstd", "compression_type=zlib,cluster_size=512",
              "compression_type=zstd,cluster_size=2M", "compression_type=zstd,extended_l2=on", "compat=0.10"]


@pytest.mark.parametrize("options", VARIANTS + ["compressed," + o for o in COMPRESSED])
def test_reads_what_qemu_img_makes(tool, tmp_path, source, options):
    image, out = tmp_path / "a.qcow2", tmp_path / "out.raw"
    compressed = options.startswith("compressed,")
    img("convert", "-q", *(["-c"] if compressed else []), "-f", "raw", "-O", "qcow2", "-o",
        options.removeprefix("compressed,"), source, image)
    before = image.read_bytes()
    tool("dump", f"{image},readonly", out)
    assert out.read_bytes() == source.read_bytes()
    assert image.read_bytes() == before
    assert tool("info", image).stdout == f"qcow2 {SIZE} 512\n"


@pytest.mark.parametrize("options", VARIANTS)
def test_random_requests(tool, tmp_path, options):
    image, model = tmp_path / "a.qcow2", tmp_path / "model.raw"
    create(image, options)
    with open(model, "wb") as f:
        f.truncate(SIZE)
    for seed, depth in ((1, 1), (2, 16)):
        tool("random", f"{image},unsafe", seed, 600, model, depth)
        check(image)
        same(image, model)


@pytest.mark.parametrize("options", ["compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on"])
@pytest.mark.parametrize("base", ["raw", "compressed"])
def test_random_requests_over_a_backing_file(tool, tmp_path, source, options, base):
    image, model, backing = tmp_path / "a.qcow2", tmp_path / "model.raw", source
    if base == "compressed":
        backing = tmp_path / "base.qcow2"
        img("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", source, backing)
    before = backing.read_bytes()
    shutil.copy(source, model)
    os.truncate(model, SIZE + 3 * MIB)
    create(image, options, SIZE + 3 * MIB, backing.name, "raw" if base == "raw" else "qcow2")
    tool("random", f"{image},unsafe", 3, 600, model, 8)
    check(image)
    same(image, model)
    assert backing.read_bytes() == before


@pytest.mark.parametrize("options", COMPRESSED)
def test_random_requests_on_compressed_clusters(tool, tmp_path, source, options):
    image = tmp_path / "a.qcow2"
    img("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o", options, source, image)
    tool("random", f"{image},unsafe", 4, 600, source, 8)
    check(image)
    same(image, source)


@pytest.mark.parametrize("options", ["compat=1.1", "compat=0.10,cluster_size=4k", "extended_l2=on"])
def test_snapshots_stay_as_they_were(tool, tmp_path, options):
    image, model, old, out = (tmp_path / name for name in ("a.qcow2", "model.raw", "old.raw", "out.raw"))
    create(image, options)
    with open(model, "wb") as f:
        f.truncate(SIZE)
    for seed in (1, 2, 3):
        tool("random", f"{image},unsafe", seed, 300, model, 8)
        check(image)
        same(image, model)
        if seed == 1:
            img("snapshot", "-c", "first", image)
            shutil.copy(model, old)
        if seed > 1:
            img("convert", "-l", "first", "-O", "raw", image, out)
            assert out.read_bytes() == old.read_bytes()
    img("snapshot", "-d", "first", image)
    check(image)
    tool("random", f"{image},unsafe", 4, 300, model, 8)
    check(image)
    same(image, model)


def test_the_refcount_table_grows(tool, tmp_path):
    """A table of one cluster of 512 bytes has 64 entries, each for 64 refcounts of 8 bytes: 2 MiB."""
    image, model = tmp_path / "a.qcow2", tmp_path / "model.raw"
    create(image, "cluster_size=512,refcount_bits=64", MIB)
    clusters = struct.unpack(">I", image.read_bytes()[56:60])[0]
    img("resize", image, 40 * MIB)
    with open(model, "wb") as f:
        f.truncate(40 * MIB)
    tool("random", f"{image},unsafe", 1, 800, model, 8)
    assert struct.unpack(">I", image.read_bytes()[56:60])[0] > clusters
    check(image)
    same(image, model)


def test_discarded_space_goes_back_to_the_host(tool, tmp_path):
    image = tmp_path / "a.qcow2"
    create(image, size=64 * MIB)
    subprocess.run(["qemu-io", "-c", "write 0 32M", image], check=True, capture_output=True)
    before = os.stat(image).st_blocks
    subprocess.run([tool.path, "discard", image, "0", str(32 * MIB)], check=True)
    check(image)
    assert os.stat(image).st_blocks < before / 4
