"""Parts that figures of several cells share: gates, lines of state, outputs."""

from drawing import Drawing, Node

Gate = tuple[str, str, str]  # text, what it reads, kind


def sigmoid(name: str, reads: str = "") -> Gate:
    """A gate between 0 and 1."""
    return f"σ({name})", reads, "sigmoid"


def tanh(name: str, reads: str = "") -> Gate:
    """A candidate between -1 and 1."""
    return f"tanh({name})", reads, "tanh"


def linear(name: str, reads: str = "") -> Gate:
    """A value that passes as it is."""
    return name, reads, "linear"


def added(d: Drawing, y: float, write: Gate, candidate: Gate, xs: tuple[float, float]) -> Node:
    """A sum on a line of state, to which a candidate is added, weighed by a gate."""
    middle = sum(xs) / 2
    plus, product = d.operation(middle, y, "+"), d.operation(middle, y + 42, "×")
    d.line(product, plus)
    for x, gate in zip(xs, (write, candidate), strict=True):
        d.line(d.box(x, y + 96, *gate), product)
    return plus


def memory(
    d: Drawing,
    y: float,
    old: str,
    keep: Gate,
    write: Gate,
    candidate: Gate,
    function: str = "",
) -> Node:
    """A line of state from the left: weighed by a gate, then added to; returns the sum."""
    left, *xs = (112, 176, 240) if function else (78, 158, 232)
    times = d.operation(left, y, "×")
    d.text(14, y, old)
    start = (30 if len(old) > 1 else 24, y)
    if function:
        d.line(start, pill := d.pill(62, y, function, width=58))
        d.line(pill, times)
    else:
        d.line(start, times)
    d.line(d.box(left, y + 96, *keep), times)
    plus = added(d, y, write, candidate, (xs[0], xs[1]))
    d.line(times, plus)
    return plus


def out(d: Drawing, node: Node, name: str, x: float = 336) -> None:
    """A line of state to the right."""
    d.line(node, (x, node.y))
    d.text(x + 4, node.y, name, "start")


def gated_output(d: Drawing, y: float, gate: Gate, x: float = 304, function: str = "tanh") -> None:
    """The output h′: the new state on the line above, squashed, weighed by a gate."""
    dot, times = d.dot(x, y), d.operation(x, y + 54, "×")
    if function:
        d.line(dot, pill := d.pill(x, y + 26, function), head=False)
        d.line(pill, times)
    else:
        d.line(dot, times)
    d.line(d.box(x, y + 96, *gate), times)
    out(d, times, "h′")


def joint_output(d: Drawing, y: float, c: float, m: float, gate: Gate) -> None:
    """The output h′ of both memories, whose lines are at heights c and m."""
    last = d.box(285, y, "conv_last ∗ [c′, m′]", width=130)
    for x, height in ((312, c), (286, m)):
        d.line(d.dot(x, height), (x, y - 14))
    d.line(last, pill := d.pill(285, y + 36, "tanh"), head=False)
    d.line(pill, times := d.operation(285, y + 70, "×"))
    d.line(d.box(190, y + 70, *gate, width=76), times)
    out(d, times, "h′")


def reset(d: Drawing, y: float, hidden: Node, frame: Node, reads: str) -> None:
    """The candidate of a GRU: its part from the state, weighed by the reset gate, and that from the frame."""
    times, plus = d.operation(150, y, "×"), d.operation(232, y, "+")
    d.line(hidden, times)
    d.line(times, plus)
    d.line(frame, plus)
    d.line(plus, (232, 134))
    d.line(d.box(150, y + 50, *sigmoid("r", reads)), times)
