"""The description of files as text: a table that can be read at 80 columns, and the command to type next."""

import math
import shlex
from typing import TYPE_CHECKING

from convlstm.data.specification import known_step, span_text
from convlstm.data.statistics import Histogram, Statistics
from convlstm.scores.lead_times import lead_text
from convlstm.workflows.describe import Description, Variable
from convlstm.workflows.periods import Times

if TYPE_CHECKING:
    from rich.table import Table

_BLOCKS = " ▁▂▃▄▅▆▇█"
_LETTERS = " .:-=+*%#"


def table(description: Description, *, ascii_only: bool) -> "Table":
    """The description, a row a property.

    Args:
        description: of `convlstm.describe`.
        ascii_only: True for terminals that show no block characters.
    """
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True, style="bold")
    shown.add_column(overflow="fold")
    for name, text in _rows(description, _LETTERS if ascii_only else _BLOCKS):
        # Files say what they like: no markup, no control characters.
        printable = "".join(letter if letter.isprintable() else " " for letter in text)
        shown.add_row(name, Text(printable))
    return shown


def command_lines(words: tuple[str, ...], width: int) -> str:
    """A command for a shell, an option a line where it is wider than the terminal."""
    whole = shlex.join(words)
    if len(whole) <= width:
        return whole
    lines = [shlex.join(words[:2])]
    for word in words[2:]:
        if word.startswith("--"):
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    parts = []
    for size, name in ((86400, "day"), (3600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {name}{'s' if name == 'day' and count > 1 else ''}")
    return " ".join(parts[:2])


def _rows(description: Description, blocks: str) -> list[tuple[str, str]]:
    files = _counted(description.files, "file")
    rows = [("files", f"{files}, reader {description.reader}: {description.format}")]
    rows += _time_rows(description.times)
    rows.append(("grid", _grid(description)))
    for variable in description.variables:
        rows += [("", ""), *_variable_rows(variable, blocks)]
    rows.append(("", ""))
    if description.others:
        rows.append(("also there", ", ".join(description.others)))
    plan = description.plan
    if plan.splits:
        step_s = known_step(description.times.step_s, dated=description.times.dated)
        last = "" if step_s is None else f" (to {lead_text(plan.steps, step_s)})"
        rows.append(("windows", f"{plan.past} frames in, {plan.steps} out{last}"))
        for name, split in plan.splits.items():
            rows.append(
                (f"  {name}", f"{_counted(split.windows, 'window')}, {_span(split.first, split.last)}")
            )
    rows += [("note" if k == 0 else "", f"{note}.") for k, note in enumerate(description.notes)]
    seen = description.sampled
    how = "all" if seen == description.times.frames else "spread over the files"
    rows.append(("", f"(values: of {seen} frames, {how})"))
    return rows


def _span(first: str, last: str) -> str:
    """From one time to another; numbers are seconds."""
    return span_text(*(end if end.count("-") == 2 else f"{end} s" for end in (first, last)))


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"


def _time_rows(times: Times) -> list[tuple[str, str]]:
    span = f"{_span(times.first, times.last)}{' UTC' if times.dated else ', no dates'}"
    step = f", {duration(times.step_s)} apart" if times.frames > 1 else ""
    rows = [("time", f"{span}, {_counted(times.frames, 'frame')}{step}")]
    if times.longest_gap is not None:
        before, after, frames = times.longest_gap
        text = f"{times.gaps}, {_percent(times.missing)} of the frames missing; the longest "
        text += f"{duration((frames + 1) * times.step_s)}, {_span(before, after)}"
    else:
        text = "none"
    rows.append(("gaps", text))
    if len(times.stretches) > 1:
        least, most = min(times.stretches), max(times.stretches)
        of = f"{least}" if least == most else f"{least} to {most}"
        rows.append(("", f"{len(times.stretches)} stretches without gaps, of {of} frames"))
    return rows


def _grid(description: Description) -> str:
    grid = description.grid
    text = " x ".join(map(str, grid["shape"])) + " pixels"
    if grid.get("units", "1") != "1":  # not those that count rows and columns
        unit = grid["units"]
        spacing = grid["spacing"]
        if unit == "m" and min(spacing) >= 1000 * 0.5:
            unit, spacing = "km", [size / 1000 for size in spacing]
        unit = "degrees" if unit.startswith("degree") else unit
        text += f" of {' x '.join(f'{size:.4g}' for size in spacing)} {unit}"
    if "grid_mapping_name" in grid.get("crs", {}):
        text += f", {grid['crs']['grid_mapping_name'].replace('_', ' ')}"
    if "region" in grid:
        south, north, west, east = grid["region"]
        text += f"; {_degrees(south, north, 'SN')}, {_degrees(west, east, 'WE')}"
    return text


def _degrees(first: float, last: float, letters: str) -> str:
    ends = [f"{abs(round(end, 2)):g} {letters[end >= 0]}" for end in (first, last)]
    return " to ".join(ends)


def _variable_rows(variable: Variable, blocks: str) -> list[tuple[str, str]]:
    found, unit = variable.statistics, variable.units
    title = f" ({variable.title})" if variable.title and variable.title != variable.name else ""
    units = f"unit {unit!r}" if unit else "no unit"
    units += f", taken as {variable.unit}" if unit and variable.unit != unit else ""
    details = [
        units,
        variable.cell_methods,
        f"{variable.dtype} in the file" if variable.dtype else "",
        f"{variable.channels} channels" if variable.channels > 1 else "",
    ]
    rows = [("variable", f"{variable.name}{title}: {', '.join(each for each in details if each)}")]
    rows.append(("  not measured", _not_measured(found)))
    rows += [
        (
            "  suspicious",
            f"{code.value:.7g} in {_percent(code.share)} of the pixels, the next value is {code.nearest:.4g}",
        )
        for code in found.codes
    ]
    if found.low is None or found.high is None:
        return rows
    if not found.codes:
        rows.append(("  suspicious", "no codes at the edges of the range"))
    shown = "" if unit == "1" else unit
    ends = f"{found.low:.4g} to {found.high:.4g} {shown}".rstrip()
    rows.append(("  range", f"{ends}, 99.9 % up to {found.most_below:.4g}"))
    if len(found.histogram.counts) > 1:
        bars = _bars(found.histogram, blocks)
        low, high = found.histogram.edges[0], found.histogram.edges[-1]
        scale = " (log scale)" if found.histogram.log_scale else ""
        rows.append(("  histogram", f"{low:.3g} {bars} {high:.4g}{scale}"))
    if found.wet is not None:
        share_wet, least, most = found.wet
        rows.append(
            (
                "  wet",
                f"{_percent(share_wet)} of the pixels above {found.dry_value:g} {shown}, "
                f"{_percent(least)} to {_percent(most)} of a frame",
            )
        )
    if found.above:
        first, *more = ((f"{limit:g}", _percent(share)) for limit, share in found.above.items())
        rest = "".join(f", {limit}: {share}" for limit, share in more)
        rows.append(("", f"{first[0]} {variable.unit} and more: {first[1]}{rest}"))
    if found.change is not None:
        mean = f"{found.change * (found.high - found.low):.2g} {shown}".rstrip()
        share = _percent(found.change)
        rows.append(("  change", f"{mean} on average from frame to frame, {share} of the range"))
    return rows


def _not_measured(found: Statistics) -> str:
    if found.not_measured == 0:
        return "0 %"
    text = f"{_percent(found.not_measured)} of the pixels"
    if abs(found.not_measured - found.never_measured) < 5e-4:
        return f"{text}, the same in every frame"
    return f"{text}; {_percent(found.never_measured)} in every frame"


def _bars(found: Histogram, blocks: str) -> str:
    """A letter a bin, as high as its count; of a log scale, empty bins share the count of the one before.

    Values in steps of 0.01, say, leave most of the lowest of those bins empty.
    """
    heights = [float(count) for count in found.counts]
    filled = [k for k, count in enumerate(found.counts) if count]
    if found.log_scale:
        for k, after in zip(filled, [*filled[1:], len(heights)], strict=True):
            heights[k:after] = [found.counts[k] / (after - k)] * (after - k)
    most = max(heights)
    return "".join(blocks[math.ceil(height / most * (len(blocks) - 1))] for height in heights)


def _percent(share: float) -> str:
    percent = 100 * share
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.3g} %"
