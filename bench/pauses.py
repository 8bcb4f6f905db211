#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long guests are held up when translations are evicted, and what their process takes beyond guest memory.

Guests of 512 MB that fill the translations' memory again and again: an engine that makes code for ever and a compiler
(guests/stress), on one CPU and on two, with all of that memory and with little of it, all of them translated. In milliseconds, the
longest of each kind:

  evict     evicting some blocks with the cache's lock held, and of that the CPU time; the difference is the host's
  let go    a CPU's letting go of what is evicted
  wait      waiting until the others have, and how often that was necessary

`delayed` is for how many seconds the CPUs could have run, but the host ran something else: on a quiet host next to none. A
CPU that is held up by that holds up others, so only then do the columns tell what the engine does.
"""
import argparse
import json
import pathlib
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "scripts"), str(TOP / "bench"), str(TOP / "guests")]
import boot  # noqa: E402
import build as guest_build  # noqa: E402
import guest_assets  # noqa: E402
import machine  # noqa: E402

# Name: (kind of job, CPUs, engine options)
LINES = {f"{kind}-{cpus}{'-small' if small else ''}": (kind, cpus, "no-direct,small-cache" if small else "no-direct")
         for kind in ("engine", "compile") for small in (False, True) for cpus in (1, 2)}
EVICT, LET_GO, WAIT = "evicting translations", "letting go of evicted translations", "waiting for room for translations"


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench pauses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LINES, metavar="NAME", default=list(LINES), help=f"some of {', '.join(LINES)}")
    parser.add_argument("--time", type=float, metavar="S", default=10, help="seconds for each (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
    return parser.parse_args()


def measure(kind, cpus, options, seconds, folder):
    profile = pathlib.Path(folder) / "profile.json"
    initrd = guest_assets.initramfs(f"stress 1 seconds {seconds} {kind}; echo status $?", {"bin/stress": guest_build.stress()})
    with machine.Machine(machine.plures(guest_assets.kernel(), initrd=initrd, append=f"{machine.CONSOLE} quiet", memory="512M", cpus=cpus,
                                        options=["--profile", profile, *(["--engine-options", options] if options else [])])) as vm:
        watch = machine.Watch(vm.pid)
        vm.wait(60 + 3 * seconds)
        watch.stop()
    if vm.code or "status 0\n" not in vm.output:
        sys.exit(f"bench pauses: {kind}, {cpus} CPUs: the guest failed:\n{vm.output[-1500:]}{vm.errors[-1500:]}")
    found = json.loads(profile.read_text())
    states = found["states"]
    return {"evicted": found["evicted"], "evict": states[EVICT]["longest_ns"] / 1e6, "evict_cpu": found["evict_cpu_ns"] / 1e6,
            "let_go": states[LET_GO]["longest_ns"] / 1e6, "wait": states[WAIT]["longest_ns"] / 1e6, "waits": states[WAIT]["count"],
            "delayed": watch.delayed, "mb": watch.most / 1024}


def main():
    args = arguments()
    print(f"{boot.host()}\n\n{'':16}regions   evict  of CPU   let go    wait  times  delayed  MB beside guest memory")
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            try:
                n = result[name] = measure(*LINES[name], args.time, folder)
            except (guest_assets.AssetError, guest_build.BuildError, machine.MachineTimeout) as e:
                sys.exit(f"bench pauses: {e}")
            print(f"{name:16}{n['evicted']:7} {n['evict']:7.2f} {n['evict_cpu']:7.2f} {n['let_go']:8.2f} {n['wait']:7.2f} {n['waits']:6} "
                  f"{n['delayed']:7.1f}s {n['mb']:5.0f}", flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
