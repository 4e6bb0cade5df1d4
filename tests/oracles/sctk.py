"""Run NIST sctk and read its reports; as a script, make the comparison data of tests/support/sctk anew.

``python -m tests.oracles.sctk tests/support/sctk`` needs ``sclite`` and ``sc_stats`` on PATH, or Debian's package
``sctk``, which keeps them in /usr/lib/sctk/bin. The format of the files is explained in the README there.
"""

import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEBIAN = "/usr/lib/sctk/bin"
SYSTEMS = ("lexicon", "greedy", "scratch")
BLOCK = 20
"""Utterances in each part of the test set that MAPSSWE is run on, so that p-values of all sizes are seen."""


def program(name):
    """Path of a program of sctk, or None."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), DEBIAN]))


def version():
    shown = subprocess.run([program("sclite")], capture_output=True, text=True, check=False)
    return re.search(r"sclite Version: [^\n]*", shown.stdout + shown.stderr).group()


def sclite(ref, hyp, folder, *options, formats=("trn", "trn")):
    """Score one file: {utterance id: (C, S, D, I)}, in sclite's order; it writes ids in lower case."""
    command = [program("sclite"), "-r", str(ref), formats[0], "-h", str(hyp), formats[1], "system"]
    command += ["-i", "rm"] if formats[0] == "trn" else []
    subprocess.run(
        [*command, *options, "-o", "pra", "-O", str(folder), "-n", "out"], check=True, capture_output=True, text=True
    )
    text = (Path(folder) / "out.pra").read_text(encoding="utf-8")
    found = re.findall(r"^id: \((.*)\)\n(?:.+\n)*?Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
    return {id_: tuple(int(number) for number in numbers) for id_, *numbers in found}


def mapsswe(ref, a, b, folder):
    """Compare two files: (segments, mean, standard deviation, z, p) as sc_stats prints them, so as text."""
    sgml = b""
    for name, hyp in (("a", a), ("b", b)):
        command = [program("sclite"), "-r", str(ref), "trn", "-i", "rm", "-h", str(hyp), "trn", name]
        subprocess.run([*command, "-o", "sgml", "-O", str(folder), "-n", name], check=True, capture_output=True)
        sgml += (Path(folder) / f"{name}.sgml").read_bytes()
    for option, name in (("-v", "long"), ("-u", "short")):
        test = [program("sc_stats"), "-p", "-t", "mapsswe", option, "-n", name, "-O", str(folder)]
        subprocess.run(test, input=sgml, check=True, capture_output=True)
    details = (Path(folder) / "long.stats.mapsswe").read_text(encoding="latin-1")
    unified = (Path(folder) / "short.stats.unified").read_text(encoding="latin-1")
    found = re.search(r"# segs: +(\d+)\).*\(mean: +(\S+)\) \(std dev: +(\S+)\) \(Z Stat: +(\S+)\)", details).groups()
    p = re.search(r"^\| +MP +\|\| +a +\|[^|]*\|[^|]*?([<\d.]+)[ *]*\|\|", unified, re.MULTILINE).group(1)
    return (*found, p)


def lines_of(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def blocks(data):
    """The parts of the test set: [(first line, end), ...], and the whole."""
    size = len(lines_of(data / "ref.trn"))
    return [*((start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)), (0, size)]


def part(path, start, end, folder):
    """Write some lines of a file and return the new file."""
    new = Path(folder) / Path(path).name
    new.write_text("".join(f"{line}\n" for line in lines_of(path)[start:end]), encoding="utf-8")
    return new


def some_markup(rng, depth=0, longest=8):
    """A reference with alternatives (not nested: there sclite's ties are its own) and optional words."""
    parts = []
    for _ in range(rng.randint(0, longest)):
        kind = rng.random()
        if kind < 0.2 and not depth:
            branches = [some_markup(rng, 1, 3) or "@" for _ in range(rng.randint(2, 3))]
            parts.append("{ " + " / ".join(branches) + " }")
        else:
            parts.append(f"({rng.choice('abcd')})" if kind < 0.35 else rng.choice("abcd"))
    return " ".join(parts)


def write_markup(folder, seed, count):
    """Write ``markup-ref.trn`` and ``markup-hyp.trn``."""
    rng = random.Random(seed)
    for name, text in (
        ("ref", lambda: some_markup(rng)),
        ("hyp", lambda: " ".join(rng.choice("abcd") for _ in range(rng.randint(0, 9)))),
    ):
        lines = [f"{text()} (m-{number:04d})".strip() for number in range(count)]
        (Path(folder) / f"markup-{name}.trn").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_timed(folder, seed, segments):
    """Write ``timed.stm`` and ``timed.ctm``: two files, two channels, gaps, words across borders, ignored segments."""
    rng = random.Random(seed)
    stm, ctm = [";; constructed"], [";; constructed"]
    for file, channel in (("one", "A"), ("one", "B"), ("two", "A"), ("two", "B")):
        time, last = 0.0, 0.0
        for _ in range(segments):
            time += rng.choice([0.0, 0.0, 0.5, 1.25])
            end = time + rng.randint(2, 20) / 4
            text = some_markup(rng)
            text = "IGNORE_TIME_SEGMENT_IN_SCORING" if rng.random() < 0.1 else text
            label = rng.choice(["", "<o,f0,male> ", "<O> "])
            stm.append(f"{file} {channel} spk{rng.randint(1, 3)} {time:.2f} {end:.2f} {label}{text}".rstrip())
            time = end
        while last < time + 1:
            last += rng.randint(1, 6) / 8
            duration = rng.randint(1, 8) / 16
            if rng.random() < 0.1:
                ctm.append(f"{file} {channel} * * <ALT_BEGIN>")
                ctm.append(f"{file} {channel} {last:.4f} {duration:.4f} {rng.choice('abcd')}")
                ctm.append(f"{file} {channel} * * <ALT>")
                ctm.append(f"{file} {channel} {last:.4f} {duration:.4f} {rng.choice('abcd')}")
                ctm.append(f"{file} {channel} * * <ALT_END>")
            else:
                ctm.append(f"{file} {channel} {last:.4f} {duration:.4f} {rng.choice('abcd')} {rng.random():.3f}")
    (Path(folder) / "timed.stm").write_text("\n".join(stm) + "\n", encoding="utf-8")
    (Path(folder) / "timed.ctm").write_text("\n".join(ctm) + "\n", encoding="utf-8")


def constructed(folder, work):
    """sclite -D on the constructed files of ``folder``: ({id: counts} of trn, {speaker-number: counts} of stm)."""
    trn = sclite(folder / "markup-ref.trn", folder / "markup-hyp.trn", work, "-D")
    return trn, sclite(folder / "timed.stm", folder / "timed.ctm", work, "-D", formats=("stm", "ctm"))


def make(data):
    """Write ``counts.txt`` and ``mapsswe.txt``."""
    with tempfile.TemporaryDirectory() as folder:
        counts = [sclite(data / "ref.trn", data / f"{name}.trn", folder) for name in SYSTEMS]
        rows = [f"# {version()}", "# id" + "".join(f" | C S D I of {name}" for name in SYSTEMS)]
        rows += [" ".join([id_, *(str(n) for table in counts for n in table[id_])]) for id_ in counts[0]]
        (data / "counts.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        rows = ["# first-line end-line system-a system-b segments mean sd z p"]
        for (start, end), (a, b) in itertools.product(blocks(data), itertools.combinations(SYSTEMS, 2)):
            files = [part(data / f"{name}.trn", start, end, folder) for name in ("ref", a, b)]
            rows.append(" ".join([str(start), str(end), a, b, *mapsswe(*files, folder)]))
        (data / "mapsswe.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        write_markup(data, 1, 400)
        write_timed(data, 1, 40)
        rows = ["# id C S D I of sclite -D: markup-*.trn, then timed.stm and timed.ctm (speaker-number)"]
        for table in constructed(data, folder):
            rows += [" ".join(map(str, (id_, *numbers))) for id_, numbers in table.items()]
        (data / "constructed.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
