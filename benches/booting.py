"""What a boot from the store takes: plywood beside the bare system calls.

In: a store with as many layers as are asked for. Out: milliseconds of each
step, medians of the rounds, caches cold and warm.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import inputs
from measuring import PROGRAMS, ROOT
from pipelines import PLYWOOD, configuration

COUNTS = [1, 16, 64, 200]
INPUT = inputs.LAYERS.name
STATE = ROOT / "build/bench/state"
# One boot takes less than a build, and varies more.
MIN_ROUNDS = 9
# Not more than the bare system calls times this.
TARGET = 1.3


def measure(authority, rounds):
    if os.geteuid() != 0:
        raise SystemExit("boot: mounting needs root")
    images = inputs.LAYERS.images()
    results = []
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir()
    # From the most down: what is in the store already is not built again.
    for count in sorted(COUNTS, reverse=True):
        apply(authority, images[:count])
        for caches in ("cold", "warm"):
            results.append({"layers": count, "caches": caches, **compare(caches, max(rounds, MIN_ROUNDS))})
    shutil.rmtree(STATE)
    return results[::-1]


def apply(authority, images):
    config = configuration(STATE, authority)
    document = json.loads(config.read_text())
    extensions = [{"image": f"bench.test/{image}:latest"} for image in images]
    document["machine"]["install"] = {"extensions": extensions}
    config.write_text(json.dumps(document))
    command = [PLYWOOD, "apply", "--file", config, "--state", STATE / "plywood"]
    subprocess.run(command, check=True, capture_output=True)


def compare(caches, rounds):
    taken = {"bare": [], "plywood": []}
    for number in range(rounds):
        for way in sorted(taken, reverse=number % 2 == 1):
            taken[way].append(run(way, caches))
    steps = {way: {step: statistics.median(one[step] for one in each) for step in each[0]}
             for way, each in taken.items()}
    totals = {way: [sum(one.values()) for one in each] for way, each in taken.items()}
    return {**steps, "ratio": statistics.median(a / b for a, b in zip(totals["plywood"], totals["bare"]))}


def run(way, caches):
    target = STATE / "target"
    target.mkdir(exist_ok=True)
    command = ["unshare", "--mount", "--propagation", "private", PROGRAMS / "mounts", way,
               STATE / "plywood", target, caches]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"boot: {way}: the layers cannot be mounted here")
    wait_for_loops()
    return json.loads(done.stdout)


def wait_for_loops():
    """The kernel frees loop devices a moment after their last user."""
    def ours():
        backing = Path("/sys/class/block").glob("loop*/loop/backing_file")
        return [path for path in backing if str(STATE) in read(path)]
    for _ in range(500):
        if not ours():
            return
        time.sleep(0.01)
    raise SystemExit("loop devices stay in use")


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def table(results):
    yield "Boot from the store, ms in all (ms a layer)"
    for one in results:
        count = one["layers"]
        for way in ("bare", "plywood"):
            total = sum(one[way].values())
            steps = ", ".join(f"{step} {value:.2f}" for step, value in one[way].items())
            yield f"  {count:4} layers, {one['caches']}  {way:8} {total:8.2f} ({total / count:.2f})  {steps}"
        verdict = "met" if one["ratio"] <= TARGET else "not met"
        yield f"  {'':18} plywood / bare = {one['ratio']:.2f}, at most {TARGET}: {verdict}"
    yield ""
