# SPDX-License-Identifier: Apache-2.0
"""What `./dev bench speed` found: ratios, geometric means, the table and the picture.

A line holds numbers for each column that ran; `rate` adds `ratio` to it (how many times as long as natively, or for the
group boot seconds, for smp the throughput of two processes beside one) and `groups` to the result."""
import math

STATISTIC = {"median": "medians", "best": "fastest units", "cpu": "CPU time of the host"}
PEER = ("qemu", "qemu64")
COLOUR = {"plures": "#2a7", "tcg": "#999", "kvm": "#68c"}


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def rate(result, statistic):
    """Adds ratios and means. `statistic` is "median", "best" or "cpu"."""
    result["statistic"] = statistic
    for key, line in result["lines"].items():
        value = {c: n[statistic] for c, n in line.items() if isinstance(n, dict) and statistic in n}
        peers = [value[c] for c in PEER if c in value]
        if key.startswith("smp/"):
            value = {c: line[c]["best" if statistic == "best" else "median"] for c in value}
            peers = [value[c] for c in PEER[:1] if c in value]
        if peers:
            value["tcg"] = min(peers)
        unit = value.get("native", 1) if not key.startswith("smp/") else 1
        line["ratio"] = {c: v / unit for c, v in value.items() if c != "native" or key.startswith("smp/")}
        if "plures" in value and "tcg" in value and not key.startswith("smp/"):
            line["speedup"] = value["tcg"] / value["plures"]
    result["groups"] = {g: mean(result, g) for g in ("integer", "vectors", "kernel", "all", "boot")}


def mean(result, group):
    """Geometric means of a group's ratios, over the lines that every one of its columns has."""
    inside = [line for key, line in result["lines"].items()
              if key.split("/")[0] == group or (group == "all" and key.split("/")[0] in ("integer", "vectors", "kernel"))]
    columns = {c for line in inside for c in line["ratio"]}
    found = {c: geomean(line["ratio"][c] for line in inside if c in line["ratio"]) for c in columns}
    if any("speedup" in line for line in inside):
        found["speedup"] = geomean(line["speedup"] for line in inside if "speedup" in line)
    return found


# --- the table --------------------------------------------------------------------------------------------------------

SHOWN = ("before", "base", "plures", "kvm", "tcg")
HEAD = {"before": "before", "base": "base", "plures": "plures", "kvm": "kvm", "tcg": "qemu tcg"}


def time_text(seconds):
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def row(name, native, numbers, shown, speedup):
    cells = "".join(f"{numbers[c]:10.2f}" if c in numbers else f"{'-':>10}" for c in shown)
    older = next((numbers[c] for c in ("base", "before") if c in numbers), None)
    change = f"{older / numbers['plures']:9.3f}" if older and "plures" in numbers else ""
    return f"{name:14}{native:>10}{cells}" + (f"{speedup:10.2f}" if speedup else f"{'':10}") + change


def table(result):
    """Times as long as natively; the last columns are speeds: of plures beside TCG, and beside itself before."""
    lines = result["lines"]
    shown = [c for c in SHOWN if any(c in line["ratio"] for line in lines.values())]
    change = any(c in shown for c in ("before", "base")) and "plures" in shown
    out = [f"{result['measured']}, {result['commit']}: {result['rounds']} rounds of {result['time']} s, {STATISTIC[result['statistic']]}, load {result['load'][0]:.1f} to {result['load'][1]:.1f}, on "
           f"{result['host']['cpus']} x {result['host']['cpu']}",
           f"{'':14}{'native':>10}" + "".join(f"{HEAD[c]:>10}" for c in shown) + f"{'tcg/plures':>12}"[2:] + ("   before/now" if change else "")]
    last = None
    for key, line in lines.items():
        group, name = key.split("/")
        if group != last:
            out.append(f"-- {group}" + {"boot": ", seconds to init, to systemd's login", "smp": ", two processes on two CPUs, times one's throughput"}.get(group, ""))
            last = group
        native = line.get("native")
        text = "" if not native else f"{line['ratio']['native']:.2f}" if group == "smp" else time_text(native[result["statistic"]])
        unknown = group != "boot" and not native
        out.append(row(name, text if not unknown else "?", line["ratio"], shown, line.get("speedup")))
    out.append("-- geometric means")
    for group, numbers in result["groups"].items():
        if numbers and not (group == "all" and sum(1 for g in ("integer", "vectors", "kernel") if result["groups"][g]) < 2):
            out.append(row(group, "", numbers, shown, numbers.get("speedup")))
    slower = [(line["speedup"], key) for key, line in lines.items() if line.get("speedup", 1) < 1]
    if slower:
        out.append("slower than TCG: " + ", ".join(f"{key} ({speed:.2f})" for speed, key in sorted(slower)))
    return "\n".join(out)


# --- the picture ------------------------------------------------------------------------------------------------------

LEFT, WIDTH, STEP = 130, 480, 22


def svg(result):
    """A pair of bars for each line, on a logarithmic scale from native speed on."""
    rows = [(key, line["ratio"]) for key, line in result["lines"].items() if line.get("native") and not key.startswith("smp/")]
    rows += [(f"mean/{g}", n) for g, n in result["groups"].items() if g != "boot" and n]
    columns = [c for c in ("plures", "tcg") if any(c in ratio for _, ratio in rows)]
    top = max([r[c] for _, r in rows for c in columns if c in r] + [10])
    scale, height = WIDTH / math.log(top), 84 + STEP * len(rows)

    def x(ratio):
        return LEFT + max(0, math.log(ratio) * scale)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 60} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{LEFT + WIDTH + 60}" height="{height}" fill="#fff"/>',
           '<text x="10" y="20" font-weight="bold" font-size="13">Times as long as natively (less is better, logarithmic)</text>']
    for i, c in enumerate(columns):
        out += [f'<rect x="{LEFT + 110 * i}" y="30" width="10" height="10" fill="{COLOUR[c]}"/>',
                f'<text x="{LEFT + 16 + 110 * i}" y="39">{HEAD[c]}</text>']
    for mark in (1, 2, 5, 10, 20, 50, 100):
        if mark <= top:
            out += [f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="52" y2="{height - 30}" stroke="#ddd"/>',
                    f'<text x="{x(mark):.1f}" y="51" fill="#777" text-anchor="middle" font-size="10">{mark}</text>']
    for i, (key, ratio) in enumerate(rows):
        y = 56 + STEP * i
        weight = ' font-weight="bold"' if key.startswith("mean/") else ""
        out.append(f'<text x="10" y="{y + 13}"{weight}>{key.split("/")[1]}</text>')
        for j, c in enumerate(columns):
            if c in ratio:
                out += [f'<rect x="{LEFT}" y="{y + 9 * j}" width="{max(1, x(ratio[c]) - LEFT):.1f}" height="8" fill="{COLOUR[c]}"/>',
                        f'<text x="{x(ratio[c]) + 4:.1f}" y="{y + 8 + 9 * j}" font-size="9">{ratio[c]:.2f}</text>']
    host = result["host"]
    out += [f'<text x="10" y="{height - 10}" fill="#555" font-size="11">{result["kernel"].split("_")[0]}, 512M, 1 vCPU, '
            f'{host["cpus"]} x {host["cpu"]}, load {result["load"][0]:.1f}, {result["measured"]}</text>', "</svg>"]
    return "\n".join(out) + "\n"
