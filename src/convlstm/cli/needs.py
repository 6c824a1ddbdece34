"""A plan as a table of memory."""

import textwrap
from typing import TYPE_CHECKING

from convlstm.cli.catalogue import quantity
from convlstm.models.memory import allocator_share, gibibytes
from convlstm.workflows.plan import ModelPlan

if TYPE_CHECKING:
    from rich.console import Group

_TITLES = ("engine", "precision", "save", "held", "training", "inference")


def table(found: ModelPlan, width: int, *, ascii_only: bool = False) -> "Group":
    """Parameters and operations, memory by engine, precision and save, and what to turn on.

    Args:
        found: of `convlstm.workflows.plan.plan`.
        width: columns of the terminal.
        ascii_only: the terminal shows no other characters.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.ASCII if ascii_only else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for n, title in enumerate(_TITLES):
        shown.add_column(title, justify="right" if n >= 3 else "left", no_wrap=True)
    for need in found.needs:
        names = f"{need.engine}{' *' * need.default}", need.precision, need.save or "-"
        figures = map(gibibytes, (need.held, need.training, need.inference))
        shown.add_row(*names, *figures, style="bold" if need.default else None)
    head, notes = (
        "\n".join(textwrap.fill(line, width) for line in lines) for lines in (_head(found), _notes(found))
    )
    return Group(Text(head), shown, Text(notes))


def _head(found: ModelPlan) -> list[str]:
    height, width = found.size
    frames = (
        f"{found.past} frame{'s' * (found.past > 1)} of {height} x {width}"
        + f" and {found.steps} more" * (found.steps > 0)
    )
    return [
        f"{found.model}, {frames}, batch size {found.batch_size}",
        f"parameters: {quantity(found.parameters)}, {gibibytes(found.weights)}; with gradients and Adam's "
        f"means {gibibytes(4 * found.weights)}",
        f"multiply-adds of a forecast: {quantity(found.multiply_adds)}",
    ]


def _notes(found: ModelPlan) -> list[str]:
    lines = [
        "* unless an option says otherwise. Memory on a CPU, weights not counted: held between the forward "
        "and the backward pass; of a training step and of a forecast at most.",
    ]
    if (share := allocator_share()) > 1:
        lines.append(
            f"The C library may take up to {share:g} times as much in training, and more in inference: "
            "MALLOC_MMAP_THRESHOLD_=1000000 in the environment avoids that."
        )
    if found.free is not None:
        lines.append(f"free here: {gibibytes(found.free)}")
    if found.remedies:
        each = ", ".join(f"{remedy.option} ({gibibytes(remedy.training)})" for remedy in found.remedies)
        lines.append(f"to train with less, each alone: {each}")
    return lines
