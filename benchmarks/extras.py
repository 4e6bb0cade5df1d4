"""What does each extra download? Prints the rows of the table in docs/installing.md.

usage: python -m benchmarks.extras

pip resolves the package without installing anything (``--dry-run``); sizes are those of the wheels for this machine.
"""

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEVELOPMENT = {"bench", "dev"}


def resolved(extra: str) -> dict[str, str]:
    """Return name -> address of every wheel that the package with an extra needs in an empty environment."""
    wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
    words = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", wanted]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip cannot resolve {wanted}:\n{done.stderr[-2000:]}")
    items = json.loads(done.stdout)["install"]
    found = {item["metadata"]["name"].lower(): item["download_info"]["url"] for item in items}
    return {name: url for name, url in found.items() if name != "speechssl"}


@cache
def size(url: str) -> int:
    """Return the bytes of a wheel, without downloading it."""
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
        return int(answer.headers["Content-Length"])


def main() -> None:
    """Print a row for each extra, without what the package itself needs."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    base = resolved("")
    cuda = {name for name in base if re.match(r"nvidia-|cuda-|triton", name)}
    total, gpu = (sum(size(base[name]) for name in names) for names in (base, cuda))
    print(f"speechssl: {len(base)} packages, {total / 1e6:,.0f} MB, of which CUDA libraries {gpu / 1e6:,.0f} MB")
    for extra in sorted(extras.keys() - DEVELOPMENT):
        new = {name: url for name, url in resolved(extra).items() if name not in base}
        largest = sorted(new, key=lambda name: -size(new[name]))[:3]
        print(
            f"| `{extra}` | {len(new)} | {sum(map(size, new.values())) / 1e6:.1f} MB | {', '.join(largest)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
