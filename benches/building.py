"""Building layers: ours beside the peers, in rounds.

In: inputs on a registry. Out: samples of every way, and their ratios. In
every round each way has its turn, in alternating order, so that what else the
machine does falls on all.
"""

import math
from dataclasses import asdict

import inputs
import pipelines
from measuring import Failed, median, ratio
from pipelines import KRATA, ONE_CORE, OURS, PEERS, TOGETHER, UMOCI

# How often an image of nearly nothing is built.
TINY_RUNS = 15

# As on a machine with more cores, for what that takes in memory.
WORKERS, WORKERS_INPUT = 8, "firmware"

# (figure, against, at most)
TARGETS = [("cpu", UMOCI, 0.30), ("wall", UMOCI, 0.22), ("cpu", KRATA, 0.75), ("wall", KRATA, 0.50)]
MAX_LIMIT = 1.15
MAX_ONE_CORE = 0.65
MAX_RSS = 64 << 10
MAX_SIZE = 1.02
MAX_SMALL = 1.20
MAX_OVERHEAD = 0.005


def compare(input_, authority, rounds):
    """Samples of each way, and why a way has none."""
    all_ways = list(pipelines.WAYS)
    if len(input_.images()) > 1:
        all_ways.insert(1, TOGETHER)
    samples, missing = {way: [] for way in all_ways}, {}
    for number in range(rounds):
        ways = [way for way in all_ways if way not in missing]
        for way in ways if number % 2 == 0 else reversed(ways):
            try:
                samples[way].append(pipelines.sample(way, authority, input_))
            except (Failed, FileNotFoundError) as reason:
                if way == OURS:
                    raise
                missing[way] = str(reason)
    with pipelines.Scratch() as scratch:
        limits = pipelines.limits(input_, scratch)
    return {"samples": {way: [asdict(one) for one in taken] for way, taken in samples.items() if taken},
            "missing": missing, "limits": limits, **figures(samples, limits)}


def figures(samples, limits):
    """Medians, and ours in ratio to each peer and to the limit."""
    taken = {way: each for way, each in samples.items() if each}
    medians = {way: asdict(median(each)) for way, each in taken.items()}
    ratios = {way: {figure: ratio(taken[OURS], each, figure) for figure in ("cpu", "wall", "rss", "size")}
              for way, each in taken.items() if way != OURS}
    limit = sum(limits.values())
    return {"medians": medians, "ratios": ratios, "limit": limit, "of limit": medians[OURS]["cpu"] / limit}


def overhead(authority):
    """Seconds, CPU and on the clock, that an image of one small file takes."""
    samples = [pipelines.sample(OURS, authority, inputs.TINY) for _ in range(TINY_RUNS)]
    return asdict(median(samples))


def memory(authority):
    """Samples of inputs that are large in one way, and of one with many workers."""
    samples = {input_.what: pipelines.sample(OURS, authority, input_) for input_ in inputs.MEMORY_LIST}
    with pipelines.Scratch() as scratch:
        input_ = inputs.BY_NAME[WORKERS_INPUT]
        samples[f"{input_.what}, {WORKERS} workers"] = pipelines.with_workers(input_, WORKERS, scratch)
    return {what: asdict(sample) for what, sample in samples.items()}


def memory_table(results):
    yield "Memory"
    for what, sample in results.items():
        verdict = "met" if sample["rss"] <= MAX_RSS else "not met"
        yield (f"  {what:28} peak RSS {sample['rss'] / 1024:6.1f} MiB, "
               f"at most {MAX_RSS >> 10}: {verdict}; CPU {sample['cpu']:.2f} s, wall {sample['wall']:.2f} s")
    yield ""


def table(name, result):
    """The figures of one input, as lines."""
    yield f"{name}: {inputs.BY_NAME[name].what}"
    yield f"  {'':28} {'CPU s':>8} {'wall s':>8} {'RSS MB':>7} {'MB':>7}   ours in ratio: CPU  wall   RSS  size"
    for way, figures_ in result["medians"].items():
        line = "  {:28} {:8.2f} {:8.2f} {:7.1f} {:7.1f}".format(
            way, figures_["cpu"], figures_["wall"], figures_["rss"] / 1024, figures_["size"] / 1e6)
        ratios = result["ratios"].get(way, {}).values()
        yield line + " " * 15 + "".join(f"{value:6.2f}" if value else "     –" for value in ratios)
    for way, reason in result["missing"].items():
        yield f"  {way:28} – {reason}"
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result["limits"].items())
    yield f"  the limit                    {result['limit']:8.2f} = {steps}; ours is {result['of limit']:.2f} of it"
    yield ""


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def verdicts(results, tiny):
    """(what, measured, at most) for every target, over the inputs that were
    measured."""
    def mean(way, figure):
        return geometric_mean(result["ratios"][way][figure] for result in results.values() if way in result["ratios"])

    def worst(way, figure):
        return max((result["ratios"][way][figure], name) for name, result in results.items()
                   if way in result["ratios"])

    for figure, way, bound in TARGETS:
        yield f"{figure} against {way}, geometric mean", mean(way, figure), bound
    for way in PEERS:
        for figure in ("cpu", "wall"):
            if any(way in result["ratios"] for result in results.values()):
                value, name = worst(way, figure)
                yield f"{figure} against {way}, worst input ({name})", value, 1.0
    large = {name: result for name, result in results.items() if name != "set12"}
    if large:
        yield "cpu against the limit, geometric mean", geometric_mean(r["of limit"] for r in large.values()), MAX_LIMIT
    yield "wall against one core, geometric mean", mean(ONE_CORE, "wall"), MAX_ONE_CORE
    rss, name = max((result["medians"][OURS]["rss"], name) for name, result in results.items())
    yield f"peak RSS in MiB, worst input ({name})", rss / 1024, MAX_RSS / 1024
    size, name = worst(UMOCI, "size")
    yield f"output against mksquashfs, worst input ({name})", size, MAX_SIZE
    if "set12" in results:
        small = results["set12"]
        of_limit = small["medians"][TOGETHER]["cpu"] / small["limit"]
        yield "twelve small extensions together: cpu against the limit", of_limit, MAX_SMALL
        yield "twelve small extensions one by one: cpu against the limit", small["of limit"], MAX_SMALL
    for figure in ("cpu", "wall"):
        yield f"an image of one small file, {figure} in ms", tiny[figure] * 1e3, MAX_OVERHEAD * 1e3


def summary(results, tiny):
    yield "Targets"
    for what, value, bound in verdicts(results, tiny):
        if value is None:
            continue
        verdict = "met" if value <= bound else f"not met: {value / bound:.2f} times the target"
        yield f"  {what:72} {value:7.2f}  at most {bound:5.2f}  {verdict}"
