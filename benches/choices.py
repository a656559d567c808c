"""What compressions and block sizes cost and give.

In: inputs on a registry. Out: for every choice, building (CPU, wall), size,
and reading back with cold caches: one file after another, and 4 KiB at random
places. The layer is squashfs on a loop device, as at boot, its file in memory
where there is room. Times of reading are CPU times of the reader, in whose name
the kernel decompresses: what a disk and other work add is not the layer's.
Mounting needs root.
"""

import os
import random
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pipelines

CHOICES = [(compression, "128KiB") for compression in (
    "none", "lz4", "gzip:6", "zstd:1", "zstd:3", "zstd:6", "zstd:9", "zstd:15", "xz")]
CHOICES += [("zstd:3", size) for size in ("4KiB", "16KiB", "32KiB", "64KiB", "256KiB", "512KiB", "1MiB")]
# xz takes minutes for a tree of modules, and says the same of it.
INPUTS = {"gvisor": CHOICES, "kmods": [(compression, size) for compression, size in CHOICES
                                       if compression != "xz" and size in ("32KiB", "128KiB", "1MiB")]}
RANDOM_READS = 400
READ_ROUNDS = 3


def measure(authority):
    if os.geteuid() != 0:
        raise SystemExit("choices: mounting needs root")
    return [choice(authority, name, *chosen) for name, each in INPUTS.items() for chosen in each]


def choice(authority, name, compression, block_size):
    layer = {"compression": compression, "blockSize": block_size}
    with pipelines.Scratch() as scratch:
        sample = pipelines.plywood(authority, name, scratch, layer=layer)
        reading = read_back(scratch / "layer.sqsh")
    return {"input": name, **layer, **asdict(sample), **reading}


def read_back(image):
    """MB/s one file after another and µs for 4 KiB at random; the best of
    some, as noise only ever slows."""
    rates, delays = [], []
    for seed in range(READ_ROUNDS):
        with Mounted(image) as top:
            rates.append(sequential(top))
        with Mounted(image) as top:
            delays.append(at_random(top, seed))
    return {"sequential": max(rates), "random": min(delays)}


class Mounted:
    """A layer mounted with nothing of it in any cache."""

    def __init__(self, image):
        with open(image) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.top = image.parent / "mounted"
        self.top.mkdir(exist_ok=True)
        command = ["losetup", "--find", "--show", "--read-only", image]
        self.device = run(command).strip()
        run(["mount", "-t", "squashfs", "-o", "ro", self.device, self.top])

    def __enter__(self):
        return self.top

    def __exit__(self, *_):
        run(["umount", self.top])
        run(["losetup", "--detach", self.device])


def run(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def files(top):
    return sorted(path for path in Path(top).rglob("*") if path.is_file() and not path.is_symlink())


def sequential(top):
    paths, total = files(top), 0
    buffer = bytearray(1 << 20)
    started = time.process_time()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.process_time() - started) / 1e6


def at_random(top, seed):
    """4 KiB pages of all files, each page as likely as any other."""
    paths = files(top)
    pages = [max(1, path.stat().st_size // 4096) for path in paths]
    chosen = random.Random(seed)
    delay = 0.0
    for path in chosen.choices(paths, weights=pages, k=RANDOM_READS):
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            place = chosen.randrange(max(1, path.stat().st_size // 4096)) * 4096
            started = time.process_time()
            os.pread(file.fileno(), 4096, place)
            delay += time.process_time() - started
    return delay / RANDOM_READS * 1e6


def table(results):
    yield "Compressions and block sizes: building, size, reading back with cold caches"
    yield (f"  {'input':8} {'compression':12} {'block':>7} {'CPU s':>7} {'wall s':>7} {'MB':>7} "
           f"{'MB/s in order':>14} {'µs for 4 KiB':>13}")
    for one in results:
        yield ("  {input:8} {compression:12} {blockSize:>7} {cpu:7.2f} {wall:7.2f} {:7.1f} {sequential:14.0f} "
               "{random:13.0f}").format(one["size"] / 1e6, **one)
    yield ""
