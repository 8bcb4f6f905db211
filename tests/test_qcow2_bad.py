# SPDX-License-Identifier: Apache-2.0
"""qcow2 images that are damaged, hostile or not for us: one line that says what is wrong with which file, and nothing written."""
import shutil
import struct
import subprocess
import time

import pytest

from test_qcow2 import MIB, create, img, tool  # noqa: F401

pytestmark = [pytest.mark.plures, pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")]
CLUSTER = 65536


def put(path, offset, value, form=">Q"):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(struct.pack(form, value))


def get(path, offset, form=">Q"):
    with open(path, "rb") as f:
        f.seek(offset)
        return struct.unpack(form, f.read(struct.calcsize(form)))[0]


@pytest.fixture
def image(tmp_path):
    """An image of 64 MiB with its first MiB written."""
    path = tmp_path / "a.qcow2"
    create(path, size=64 * MIB)
    subprocess.run(["qemu-io", "-c", "write -P 5 0 1M", path], check=True, capture_output=True)
    return path


def refused(tool, disk, *says):  # noqa: F811
    """One line, which begins with the file's name."""
    done = tool("info", disk, ok=False)
    for _ in range(100):
        # The kernel closes what an io_uring holds some time after a process that ended early.
        if "another program" not in done.stderr or "another program" in says:
            break
        time.sleep(0.05)
        done = tool("info", disk, ok=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{disk}".split(",")[0] + ": "), done.stderr
    for what in says:
        assert what in done.stderr, done.stderr


FIELDS = [
    (4, ">I", 7, "version 7"), (8, ">Q", 1 << 40, "backing file's name"), (20, ">I", 40, "cluster_bits"), (20, ">I", 9, "L1 table"),
    (24, ">Q", 1 << 60, "L1 table"), (32, ">I", 1, "encrypted"), (32, ">I", 9, "crypt_method"), (36, ">I", 0, "L1 table"),
    (36, ">I", 1 << 31, "L1 table"), (40, ">Q", 1 << 50, "truncated: the L1 table"), (40, ">Q", 77, "L1 table"),
    (48, ">Q", 1 << 50, "truncated: the refcount table"), (48, ">Q", 77, "refcount table"), (56, ">I", 0, "refcount table"),
    (56, ">I", 1 << 30, "refcount table"), (60, ">I", 5, "snapshot table"), (72, ">Q", 1 << 2, "external file"),
    (72, ">Q", 1 << 13, "bit 13"), (72, ">Q", 1 << 3, "compression_type"), (96, ">I", 77, "refcount_order"),
    (100, ">I", 1000001, "header_length"), (104, ">B", 9, "compression_type"),
]


@pytest.mark.parametrize("at,form,value,says", FIELDS, ids=[f"{f[0]}-{f[2]}" for f in FIELDS])
def test_a_wrong_header_field(tool, image, at, form, value, says):  # noqa: F811
    put(image, at, value, form)
    before = image.read_bytes()
    refused(tool, image, says)
    refused(tool, f"{image},readonly", says)
    assert image.read_bytes() == before


def test_not_closed_cleanly_or_corrupt_is_not_written(tool, image):  # noqa: F811
    for bit, says in ((1, "not closed cleanly"), (2, "marked as corrupt")):
        put(image, 72, bit)
        refused(tool, image, says, "qemu-img check -r all")
        assert tool("info", f"{image},readonly").stdout.startswith("qcow2 ")


def test_autoclear_features_are_cleared_by_who_writes(tool, image):  # noqa: F811
    put(image, 88, 0xff00)
    tool("info", f"{image},readonly")
    assert get(image, 88) == 0xff00
    tool("info", image)
    assert get(image, 88) == 0


def test_truncated_anywhere(tool, image, tmp_path):  # noqa: F811
    """Either it is refused, or what is not there any more gives an error to the guest; never zeros in its place."""
    whole, cut, out = image.read_bytes(), tmp_path / "cut.qcow2", tmp_path / "out.raw"
    tables = get(image, 40)  # the L1 table
    for size in (1, 71, 104, 600, CLUSTER, tables, tables + 512, len(whole) - CLUSTER, len(whole) - 700000):
        cut.write_bytes(whole[:size])
        done = tool("dump", f"{cut},format=qcow2,readonly", out, ok=False)
        assert done.returncode != 0 and done.stderr.count("\n") == 1, (size, done.stderr)


def test_it_is_empty_or_missing(tool, tmp_path):  # noqa: F811
    path = tmp_path / "a.qcow2"
    refused(tool, f"{path},format=qcow2", "No such file")
    path.touch()
    refused(tool, f"{path},format=qcow2", "too short")
    path.write_bytes(bytes(MIB))
    refused(tool, f"{path},format=qcow2", "magic number")


@pytest.mark.parametrize("entry,says", [
    (1 << 40 | 1 << 63, "beyond the file's end"), (0x10200 | 1 << 63, "no multiple of the cluster size"),
    (1 << 63, "where the header is"), (0x50000 | 1 << 63 | 1 << 60, "bits that must be 0"), (1 << 62 | 1 << 50, "compressed cluster")])
def test_a_wrong_l2_entry(tool, image, entry, says):  # noqa: F811
    l2 = get(image, get(image, 40)) & 0x00fffffffffffe00
    put(image, l2 + 8, entry)
    before, model = image.read_bytes(), image.with_name("model.raw")
    done = tool("dump", f"{image},readonly", image.with_name("out.raw"), ok=False)
    assert done.returncode == 1 and "Input/output error" in done.stderr and says in done.stdout
    assert image.read_bytes() == before

    with open(model, "wb") as f:
        f.write(b"\5" * MIB)
        f.truncate(64 * MIB)
    done = tool("random", image, 1, 2000, model, 4, ok=False)
    assert done.returncode == 1 and "Input/output error" in done.stderr
    assert done.stdout.count("the image is corrupt") == 1 and says in done.stdout
    assert get(image, 72) & 2  # the corrupt bit
    refused(tool, image, "marked as corrupt")


def test_a_cluster_among_the_tables(tool, image):  # noqa: F811
    """Data said to be where the refcount table is: not written there."""
    l1 = get(image, 40)
    l2 = get(image, l1) & 0x00fffffffffffe00
    table = get(image, 48)
    old = image.read_bytes()[table:table + CLUSTER]
    put(image, l2, table | 1 << 63)
    done = tool("hammer", image, 1, 2000, MIB, ok=False)
    assert done.returncode == 1 and "where a table is" in done.stdout
    assert image.read_bytes()[table:table + CLUSTER] == old


def test_tables_that_overlap(tool, image):  # noqa: F811
    l1 = get(image, 40)
    put(image, l1, get(image, 48) | 1 << 63)
    refused(tool, image, "also another table's")
    put(image, l1, 1 << 45 | 1 << 63)
    refused(tool, image, "entry 0 of its L1 table", "beyond the end")
    put(image, l1, 1 << 57)
    refused(tool, image, "bits that must be 0")


def test_a_table_whose_refcount_is_0(tool, image):  # noqa: F811
    """It would be given out as free: the write fails instead, and the table stays."""
    block = get(image, get(image, 48))
    l2 = get(image, get(image, 40)) & 0x00fffffffffffe00
    for cluster in range(CLUSTER // 2):
        if cluster * CLUSTER < image.stat().st_size:
            put(image, block + cluster * 2, 0, ">H")
    before = image.read_bytes()[l2:l2 + CLUSTER]
    done = tool("hammer", image, 1, 4000, 32 * MIB, ok=False)
    assert done.returncode == 1 and "refcount is 0" in done.stdout
    assert image.read_bytes()[l2:l2 + CLUSTER] == before


def test_backing_files_that_form_a_loop(tool, tmp_path):  # noqa: F811
    a, b = tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    create(a)
    create(b, backing="a.qcow2", form="qcow2")
    img("rebase", "-u", "-b", "b.qcow2", "-F", "qcow2", a)
    refused(tool, a, "loop")
    img("rebase", "-u", "-b", "a.qcow2", "-F", "qcow2", a)
    refused(tool, a, "loop")


def test_a_chain_too_long(tool, tmp_path):  # noqa: F811
    create(tmp_path / "0.qcow2", size=MIB)
    for i in range(1, 70):
        # Without the time that qemu-img takes to open all of them.
        shutil.copy(tmp_path / "0.qcow2", tmp_path / f"{i}.qcow2")
        img("rebase", "-u", "-b", f"{i - 1}.qcow2", "-F", "qcow2", tmp_path / f"{i}.qcow2")
    refused(tool, tmp_path / "69.qcow2", "more than 64")
    assert tool("info", tmp_path / "50.qcow2").stdout == f"qcow2 {MIB} 512\n"


def test_backing_files_that_are_not_there(tool, tmp_path):  # noqa: F811
    image, base = tmp_path / "a.qcow2", tmp_path / "base.qcow2"
    create(base)
    create(image, backing="base.qcow2", form="qcow2")
    base.unlink()
    refused(tool, image, "its backing file", "base.qcow2", "No such file")
    base.write_bytes(b"QFI\xfb" + bytes(1000))
    refused(tool, image, "its backing file", "version 0")
    img("rebase", "-u", "-b", "json:{}", "-F", "qcow2", image)
    refused(tool, image, "JSON")


def test_a_backing_file_may_be_shared_and_an_image_not(tool, tmp_path):  # noqa: F811
    base, one, two = (tmp_path / f"{n}.qcow2" for n in ("base", "one", "two"))
    create(base, size=MIB)
    for path in (one, two):
        create(path, backing="base.qcow2")
    user = subprocess.Popen([tool.path, "patient", one, "30"], stdout=subprocess.PIPE, text=True)
    try:
        assert user.stdout.readline() == "read\n"
        assert tool("info", two).stdout.startswith("qcow2 ")
        refused(tool, one, "another program")
        refused(tool, base, "another program")
    finally:
        user.kill()
        user.wait()
