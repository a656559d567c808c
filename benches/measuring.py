"""One sample: programs run one after another, and what they used.

In: command lines. Out: a Sample. CPU and memory are those of the programs and
their children, as the kernel counts them; a server's are not in it.
"""

import json
import os
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "build/bench/target/release"


@dataclass
class Sample:
    """Seconds, seconds, KiB of the largest process, bytes of the output."""
    wall: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    size: int = 0

    def add(self, other):
        self.wall += other.wall
        self.cpu += other.cpu
        self.rss = max(self.rss, other.rss)
        self.size += other.size


class Failed(Exception):
    """A program that was measured ended with an error."""


def measure(command, scratch, stdin=None):
    """Runs one program to its end."""
    result = scratch / "usage.json"
    arguments = [str(part) for part in (PROGRAMS / "measure", result, *command)]
    with open(stdin or os.devnull, "rb") as given:
        done = subprocess.run(arguments, stdin=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(arguments[2:])}: {done.stderr.strip()[-600:]}")
    return Sample(**json.loads(result.read_text()))


def median(samples):
    """The median of each figure by itself."""
    figures = [asdict(sample) for sample in samples]
    return Sample(**{key: statistics.median(figure[key] for figure in figures) for key in figures[0]})


def ratio(ours, theirs, figure):
    """The median of the ratios of samples that were taken in the same round."""
    pairs = [(getattr(a, figure), getattr(b, figure)) for a, b in zip(ours, theirs)]
    return statistics.median(a / b for a, b in pairs) if all(b for _, b in pairs) else None
