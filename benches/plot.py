"""Plots as SVG, drawn with nothing but text.

In: the figures of `choices`. Out: one picture for an input, three panels that
share their vertical axis, the layer's size: against building, reading in
order and reading at random. Down and to the left is better in the first and
the last, down and to the right in the middle.
"""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 330, 300
MARGIN, TOP, BOTTOM = 58, 40, 46

PANELS = [("cpu", "building, CPU seconds"), ("sequential", "read in order, MB/s"),
          ("random", "4 KiB at random, µs")]
STYLE = """
text { font: 11px sans-serif; fill: #222 }
.frame { fill: none; stroke: #999 }
.grid { stroke: #e4e4e4 }
.title { font-weight: bold }
.compression { fill: #1f6f8b }
.block { fill: none; stroke: #c8553d; stroke-width: 2 }
.default { fill: #c8553d }
"""


def draw(results, directory):
    for name in dict.fromkeys(one["input"] for one in results):
        points = [one for one in results if one["input"] == name]
        (directory / f"choices-{name}.svg").write_text(picture(points))


def picture(points):
    full = WIDTH * len(PANELS)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{HEIGHT}" '
             f'viewBox="0 0 {full} {HEIGHT}">', f"<style>{STYLE}</style>",
             '<rect width="100%" height="100%" fill="#fff"/>']
    for number, (figure, title) in enumerate(PANELS):
        parts += panel(points, figure, title, number * WIDTH)
    return "\n".join([*parts, "</svg>\n"])


class Axis:
    """Logarithmic, from a length in pixels to another."""

    def __init__(self, values, start, end):
        self.low, self.high = math.log(min(values) / 1.15), math.log(max(values) * 1.15)
        self.start, self.end = start, end

    def place(self, value):
        share = (math.log(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self):
        for power in range(-3, 7):
            for step in (1, 2, 5):
                value = step * 10 ** power
                if self.low <= math.log(value) <= self.high:
                    yield value


def panel(points, figure, title, left):
    x = Axis([one[figure] for one in points], left + MARGIN, left + WIDTH - 12)
    y = Axis([one["size"] / 1e6 for one in points], HEIGHT - BOTTOM, TOP)
    for value in x.ticks():
        at = x.place(value)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>'
    for value in y.ticks():
        at = y.place(value)
        yield f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{x.start - 5}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
    yield f'<rect class="frame" x="{x.start}" y="{TOP}" width="{x.end - x.start}" height="{HEIGHT - BOTTOM - TOP}"/>'
    yield f'<text class="title" x="{x.start}" y="{TOP - 10}">{escape(title)}</text>'
    yield f'<text x="{x.start}" y="{HEIGHT - 10}">size of the layer in MB is upward</text>'
    for one in points:
        yield from point(one, x.place(one[figure]), y.place(one["size"] / 1e6))


def point(one, x, y):
    is_block = one["blockSize"] != "128KiB"
    is_default = not is_block and one["compression"] == "zstd:3"
    kind = "block" if is_block else "default" if is_default else "compression"
    label = one["blockSize"] if is_block else one["compression"]
    yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    yield f'<text x="{x + 6:.1f}" y="{y - 5 if not is_block else y + 13:.1f}">{escape(label)}</text>'
