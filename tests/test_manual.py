# SPDX-License-Identifier: Apache-2.0
"""The man page and --help tell of the same options."""
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent


def test_the_man_page_has_the_options_of_run():
    text = subprocess.run([TOP / "build/plures", "run", "--help"], check=True, capture_output=True, text=True).stdout
    told = set(re.findall(r"^ {7}(?:-\w, )?--([a-z-]+)", text, re.M))
    page = (TOP / "docs/plures.1").read_text().replace("\\-", "-")
    section = page[page.index(".SS plures run"):page.index(".SS plures info")]
    written = set(re.findall(r"^\.BI? .*?--([a-z-]+)|^\.BR .*--([a-z-]+)", section, re.M))
    written = {a or b for a, b in written}
    # A flag is shown in the form that does something: --no-reboot.
    assert told and told - {"help"} == written - {"help"}


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_man_page_is_well_formed():
    for name in ("plures.1", "plures-oci.8"):
        r = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", TOP / "docs" / name], capture_output=True, text=True)
        assert r.returncode == 0
        assert not [line for line in r.stderr.splitlines() if "can't" not in line]


def test_the_guide_has_the_table_of_paravirtual_interfaces():
    rows = re.findall(r'^PARAVIRT\((\d+), (\w+), (\w+), (\w+), "(.*)"\)$', re.sub(r'"\s*\n\s*"', "", (TOP / "src/vm/paravirt.def").read_text()), re.M)
    guide = (TOP / "docs/guide/paravirtualization.md").read_text()
    written = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \| (\S+) \| (.*) \|$", guide, re.M)
    assert rows and [(bit, name, {"ANYWHERE": "all", "KERNEL": "kernel"}[where], "-" if msr == "0" else msr, gain)
                     for bit, name, where, msr, gain in rows] == written


def test_the_man_page_has_the_options_of_every_container_verb():
    program = TOP / "build/plures-oci"

    def told(*verb):
        text = subprocess.run([program, *verb, "--help"], check=True, capture_output=True, text=True).stdout
        return text, set(re.findall(r"^ {7}(?:-\w, )?--([a-z-]+)", text, re.M)) - {"help"}

    page = (TOP / "docs/plures-oci.8").read_text().replace("\\-", "-")
    text, options = told()
    verbs = re.findall(r"^ {7}(\w+) {2,}\S", text.split("VERBS")[1].split("OPTIONS")[0], re.M)
    assert len(verbs) > 10
    sections = [page.split(".SH OPTIONS")[1].split(".SH VERBS")[0]]
    for verb in verbs:
        sections.append(re.search(rf'\.SS "{verb}\b.*?(?=\n\.S[SH] )', page, re.S)[0])
    for verb, section in zip([None, *verbs], sections):
        written = set(re.findall(r"^\.B (?:-\w, )?--([a-z-]+)", section, re.M)) - {"help"}
        assert written == (told(verb)[1] if verb else options), verb
