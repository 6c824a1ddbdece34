"""Drawing vocabulary of the figures of cells: boxes for gates, circles for sums, lines for state.

Coordinates are pixels of a drawing 360 wide, which a phone shows in full. Colours follow the page's scheme,
or the system's where the file is opened by itself.
"""

from html import escape
from typing import NamedTuple

WIDTH = 360
_STYLE = """
svg.cell { --ink: #1f2328; --line: #57606a; --page: var(--md-default-bg-color, #fff); --sigmoid: #dbeafe;
  --sigmoid-edge: #2563eb; --tanh: #fef3c7; --tanh-edge: #b45309; --linear: #eaeef2; --linear-edge: #6e7781;
  --attention: #ede9fe; --attention-edge: #7c3aed; max-width: 23rem; width: 100%; display: block; }
.cell text { fill: var(--ink); font: 13px system-ui, sans-serif; text-anchor: middle;
  dominant-baseline: central; }
.cell .small { font-size: 11px; }
.cell .start { text-anchor: start; }
.cell .code { font: 11px ui-monospace, monospace; text-anchor: start; }
.cell rect { stroke-width: 1.3; }
.cell .sigmoid { fill: var(--sigmoid); stroke: var(--sigmoid-edge); }
.cell .tanh { fill: var(--tanh); stroke: var(--tanh-edge); }
.cell .linear { fill: var(--linear); stroke: var(--linear-edge); }
.cell .attention { fill: var(--attention); stroke: var(--attention-edge); }
.cell circle { fill: var(--page); stroke: var(--line); stroke-width: 1.5; }
.cell .dot { fill: var(--line); }
.cell .head { fill: var(--line); }
.cell path { fill: none; stroke: var(--line); stroke-width: 1.6; }
.cell .under { stroke: var(--page); stroke-width: 6; }
.cell .dashed { stroke-dasharray: 4 3; }
"""
_DARK = """--ink: #e6edf3; --line: #a3adb8; --page: var(--md-default-bg-color, #1e2129); --sigmoid: #1d3a66;
  --sigmoid-edge: #6ea8fe; --tanh: #4d370c; --tanh-edge: #f2b84b; --linear: #343b45; --linear-edge: #8b949e;
  --attention: #40306b; --attention-edge: #b39dfa;"""
STYLE = (
    f"{_STYLE}[data-md-color-scheme=slate] .cell {{ {_DARK} }}\n"
    f"@media (prefers-color-scheme: dark) {{ .cell:root {{ {_DARK} background: #1e2129; }} }}\n"
)


class Node(NamedTuple):
    """A box or circle: its centre and its size."""

    x: float
    y: float
    width: float
    height: float


class Drawing:
    """An SVG figure; lines are drawn below nodes."""

    def __init__(self, title: str) -> None:
        self.title, self.height, self._strips = title, 0.0, 0
        self._lines: list[str] = []
        self._nodes: list[str] = []

    def box(
        self, x: float, y: float, text: str, below: str = "", kind: str = "linear", width: float = 58
    ) -> Node:
        """A box with a text and, small below it, what it reads."""
        height = 40 if below else 28
        self._rect(x, y, width, height, kind, 5)
        self.text(x, y - 8 if below else y, text)
        if below:
            self.text(x, y + 10, below, "small")
        return Node(x, y, width, height)

    def pill(self, x: float, y: float, text: str, kind: str = "tanh", width: float = 44) -> Node:
        """A function on a line."""
        self._rect(x, y, width, 20, kind, 10)
        self.text(x, y, text, "small")
        return Node(x, y, width, 20)

    def operation(self, x: float, y: float, sign: str) -> Node:
        """A sum, a product or a difference."""
        self._nodes.append(f'<circle cx="{x:g}" cy="{y:g}" r="10"/>')
        self.text(x, y, sign)
        return Node(x, y, 20, 20)

    def dot(self, x: float, y: float) -> Node:
        """A place where a line branches."""
        self._nodes.append(f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="2.6"/>')
        return Node(x, y, 0, 0)

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """A label, its middle (or start) at a point."""
        self.height = max(self.height, y + 14)
        style = f' class="{kind}"' if kind else ""
        self._nodes.append(f'<text x="{x:g}" y="{y:g}"{style}>{escape(text)}</text>')

    def line(self, *points: Node | tuple[float, float], first: str = "v", head: bool = True) -> None:
        """A line through points, with right angles, from the edge of a node to that of another.

        Args:
            points: nodes or coordinates.
            first: v or h, the direction in which a line leaves a point that is not level with the next one.
            head: True for an arrow at its end.
        """
        centres = [(p[0], p[1]) for p in points]
        corners = [centres[0]]
        for x, y in centres[1:]:
            last_x, last_y = corners[-1]
            if last_x != x and last_y != y:
                corners.append((last_x, y) if first == "v" else (x, last_y))
            corners.append((x, y))
        corners[0] = _edge(points[0], corners[0], corners[1])
        end = corners[-1] = _edge(points[-1], corners[-1], corners[-2])
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in corners)
        self._lines.append(f'<path class="under" d="{path}"/><path d="{path}"/>')
        if head:
            turn = {(1, 0): 0, (-1, 0): 180, (0, 1): 90, (0, -1): 270}[_direction(corners[-2], end)]
            place = f"translate({end[0]:g} {end[1]:g}) rotate({turn})"
            self._lines.append(f'<polygon class="head" points="0,0 -7,-4 -7,4" transform="{place}"/>')

    def strip(self, name: str, slots: str) -> None:
        """The result of a convolution, below all that is drawn so far, with its parts in their order."""
        y, parts = self.height + (12 if self._strips else 20), slots.split()
        self._strips += 1
        self.text(10, y, name, "code start")
        width = min(31, 222 / len(parts)) if len(parts) > 2 else 31
        for k, part in enumerate(parts):
            x = 134 + width * (k + 0.5)
            self._rect(x, y, width, 20, "linear", 0)
            self.text(x, y, part, "small")

    def svg(self) -> str:
        """The figure as text."""
        size = f"{WIDTH} {self.height + 4:g}"
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="cell" viewBox="0 0 {size}" role="img">']
        parts += [f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>"]
        return "\n".join([*parts, *self._lines, *self._nodes, "</svg>"]) + "\n"

    def _rect(self, x: float, y: float, width: float, height: float, kind: str, radius: float) -> None:
        self.height = max(self.height, y + height / 2)
        corner = f'x="{x - width / 2:g}" y="{y - height / 2:g}"'
        size = f'width="{width:g}" height="{height:g}" rx="{radius:g}"'
        self._nodes.append(f'<rect class="{kind}" {corner} {size}/>')


def _direction(start: tuple[float, float], end: tuple[float, float]) -> tuple[int, int]:
    """The direction of a level or upright line."""
    return (end[0] > start[0]) - (end[0] < start[0]), (end[1] > start[1]) - (end[1] < start[1])


def _edge(
    point: Node | tuple[float, float], centre: tuple[float, float], towards: tuple[float, float]
) -> tuple[float, float]:
    """The end of a line at the edge of a node."""
    if not isinstance(point, Node):
        return centre
    right, down = _direction(centre, towards)
    return centre[0] + right * point.width / 2, centre[1] + down * point.height / 2
