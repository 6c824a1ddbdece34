"""The engines, and the choice among them for a call."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import convlstm.engines.config as config
import convlstm.engines.cpu.compiler as compiler
import convlstm.engines.cpu.library as library
import convlstm.engines.linear as linear
import convlstm.engines.triton.launch as launch
from convlstm.cells.base import Cell
from convlstm.cells.conv_cell import ConvCell
from convlstm.cells.overrides import all_modules_have_hooks, has_hooks
from convlstm.cells.recordable import recorders_of
from convlstm.engines.call import Call
from convlstm.engines.convolution import SameConv
from convlstm.engines.direct import is_channels_first_faster
from convlstm.engines.dry_run import DryTensor
from convlstm.engines.plan import is_one_call
from convlstm.engines.recurrences import recurrence_of
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.validation import check_instance, check_tensor

#: ``reference``: the loop over time as it is written; ``fused``: `convlstm.engines.autograd` in torch's own
#: operations, and small calls by the loop; ``compiled``: the same for calls of any size, with kernels that a
#: compiler makes when they are first needed; ``auto``: the fastest that serves the call.
ENGINES = ("auto", "compiled", "fused", "reference")

_PROXY = torch._C._TorchDispatchModeKey.PROXY  # the mode of make_fx, which does not see what kernels write
_FORWARD = Cell.forward  # as it is here: a user may replace it on the class itself


def available(layer: nn.Module | None = None, frames: Tensor | None = None) -> dict[str, str | None]:
    """For each engine None if it runs on this machine, or else the reason why it does not.

    Kernels that were never compiled on this machine are compiled first, which takes some seconds.

    Args:
        layer: a layer; then instead, for each of its cells by name, the engine that ``auto`` takes for a
            call, with the algorithm of its convolutions, or the reason why the loop runs it.
        frames: (B, T, C, *S), of the shape, dtype and device of the call; given if the layer is.

    Raises:
        OptionError: one of both alone, or a layer that is no module.
        ShapeError: frames of another number of axes, or none.
    """
    if layer is not None or frames is not None:
        layer = check_instance(layer, nn.Module, "layer")
        frames = check_tensor(frames, "frames (B, T, C, *S)")
        found: dict[str, str | None] = {}
        for name, cell in layer.named_modules():
            is_part = "" in found or any(name.startswith(f"{outer}.") for outer in found)
            if isinstance(cell, Cell) and not is_part:
                found[name] = _described(cell, frames, _options_above(layer, name))
        return found
    reasons = {"on cpu": compiler.unavailable() or library.failure(), "on cuda": launch.unavailable()}
    some = None in reasons.values()
    missing = None if some else "; ".join(f"{where} {reason}" for where, reason in reasons.items())
    return {"reference": None, "fused": None, "compiled": missing}


#: By device, why nothing can be compiled for it, or None.
_COMPILERS = {"cpu": compiler.unavailable, "cuda": launch.unavailable}


def _options_above(layer: nn.Module, name: str) -> tuple[str, ...]:
    """Options of the stack that a cell is in, by the cell's name, which only the reference supports."""
    stacks = (part for path, part in layer.named_modules() if not path or name.startswith(f"{path}."))
    options = [part._convlstm_options.scan for part in stacks if "_convlstm_options" in vars(part)]
    return ("zoneout",) if any(scan.zoneout for scan in options) else ()


def _described(cell: Cell, frames: Tensor, reference_only: tuple[str, ...]) -> str:
    """The engine and the algorithm for a call of a cell."""
    axes = len(cell.kernel_size)
    if frames.ndim != 3 + axes or 0 in frames.shape:
        raise ShapeError(
            f"frames must be (B, T, C, *S) with {axes} space axes; received shape {tuple(frames.shape)}: "
            "give those of the call, batch first"
        )
    batch, steps, _, *size = frames.shape
    x = frames[:, :, :1].expand(batch, steps, cell.input_dim, *size)
    call = Call(cell, x, cell.initial_state(x[:, 0]), reference_only=reference_only)
    engine = select("auto", call)
    if engine == "reference":
        return f"reference, because {_reason_of_loop(call)}"
    if linear.is_supported(call):
        return f"{engine}, scan over time"
    assert isinstance(cell, ConvCell)
    in_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    if engine == "compiled" and in_float32 and _is_one_call(call):
        return "compiled, one call, direct convolution"
    if x.device.type != "cpu" or not in_float32:
        return f"{engine}, direct convolution"
    of_input, of_state = _algorithms(call, compiled=engine == "compiled")
    both = "" if of_input == of_state else f" of the hidden state, {of_input} of the input"
    return f"{engine}, {of_state} convolution{both}"


def _reason_of_loop(call: Call) -> str:
    """The reason why ``auto`` leaves a call to the reference."""
    if loop_is_faster(call):
        return "it is as fast for a call of this size"
    if recorders_of(call.cell):
        return "the cell is recorded"
    if all_modules_have_hooks():
        return "there are hooks of all modules, which are called at each step"
    recurrence = recurrence_of(call.cell)
    if recurrence is None and not linear.is_supported(call):
        return f"{type(call.cell).__name__} has no faster implementation"
    reasons = not_supported_reasons("auto", call, _parameters(call))
    if recurrence is not None:
        reasons += recurrence.not_supported_reasons(call.cell)
    if reasons:
        return f"a faster engine cannot: {'; '.join(reasons)}"
    return "float64 can be differentiated twice there"


def _compiler_missing(device: str) -> str | None:
    return _COMPILERS.get(device, compiler.unavailable)()


# As `torch.compiler.assume_constant_result` marks a function, which also imports torch._dynamo and with it
# sympy: that takes as long as to import torch.
_compiler_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def select(engine: str, call: Call) -> str:
    """The engine that runs a call: the `supported` one, or ``reference`` where `loop_is_faster`.

    Arguments and errors are those of `supported`, but that a small call by ``fused`` is not refused for the
    kinds of its tensors: to look at them takes a tenth of the call.
    """
    small = engine in ("auto", "fused") and loop_is_faster(call, engine)
    if small and (engine == "auto" or not (_reasons_of_cell(engine, call) or _reasons_of_mode())):
        return "reference"
    return supported(engine, call)


def supported(engine: str, call: Call) -> str:
    """The engine that can run a call, whatever its size: ``reference``, ``fused`` or ``compiled``.

    A cell that the fast engines do not support, or whose rules are overridden, runs by its own ``step`` under
    every engine, and so does one that `convlstm.record` records, or any while there are hooks of all modules.
    ``auto`` runs float64 on the reference, which can be differentiated twice, and a linear recurrence
    (`LinearCell`) in torch's operations, which can be too.

    Args:
        engine: one of `ENGINES`.
        call: the call; of its frames and flags only shapes and dtypes matter.

    Raises:
        OptionError: an engine named that does not exist or cannot run the call, with the reasons.
    """
    if check_name(engine, ENGINES, "engine") == "reference" or recorders_of(call.cell):
        return "reference"
    parameters = _parameters(call)
    if parameters is None and engine == "auto":
        return "reference"
    reasons = not_supported_reasons(engine, call, parameters)
    if reasons and engine != "auto":
        raise OptionError(
            f"engine must be able to serve the call; received engine='{engine}', which cannot because "
            f"{'; '.join(reasons)}: use engine='auto'"
        )
    if reasons or parameters is None or all_modules_have_hooks():
        return "reference"
    double = call.x.dtype == torch.float64
    if engine == "auto" and double and not linear.is_supported(call):
        return "reference"
    if engine == "auto":
        return "fused" if double or _compiler_missing(call.x.device.type) else "compiled"
    return engine


def _parameters(call: Call) -> list[Tensor | None] | None:
    """The parameters of a recurrence that the fast engines have, with the cell's options; None for others."""
    if linear.is_supported(call):
        return [*call.cell.parameters()]
    recurrence = recurrence_of(call.cell)
    if recurrence is None or recurrence.not_supported_reasons(call.cell):
        return None
    conv = call.cell.conv
    return [conv.weight, conv.bias, recurrence.parameter(call.cell)]


def not_supported_reasons(engine: str, call: Call, parameters: list[Tensor | None] | None) -> list[str]:
    """Reasons why a fast engine cannot run a call; empty if it can.

    Args:
        engine: ``fused``, ``compiled`` or ``auto``.
        call: the call.
        parameters: of the recurrence; None if it is not supported with the cell's options, which is no
            reason.
    """
    reasons = _reasons_of_cell(engine, call)
    if parameters is None or not isinstance(call.cell, Cell):
        return reasons
    return [*reasons, *_reasons_of_mode(), *_reasons_of_tensors(call, parameters)]


def _reasons_of_cell(engine: str, call: Call) -> list[str]:
    name, reasons = type(call.cell).__name__, []
    if engine == "compiled" and (missing := _compiler_missing(call.x.device.type)):
        reasons.append(missing)
    if call.reference_only:
        reasons.append(f"it has no {', '.join(call.reference_only)}")
    if not isinstance(call.cell, Cell):
        return [*reasons, f"{name} is no convlstm.cells.Cell"]
    if call.cell.spatiotemporal_memory:  # called step by step in any case, with its hooks and its forward
        return reasons
    if has_own_forward(call.cell):
        reasons.append(f"{name} has a forward of its own")
    if has_hooks(call.cell):
        reasons.append(f"{name} has hooks")
    return reasons


def _reasons_of_mode() -> list[str]:
    reasons = []
    # The flag itself: traced by torch.compile of torch 2.7, is_exporting() is always true.
    traced = torch.compiler._is_exporting_flag or torch._C._get_tracing_state() is not None
    if traced or (not torch.compiler.is_compiling() and torch._C._get_dispatch_mode(_PROXY) is not None):
        reasons.append("the call is being exported or traced")
    if torch._C._are_functorch_transforms_active():
        reasons.append("the call is inside a transform of torch.func")
    if torch.autograd.forward_ad._current_level >= 0:
        reasons.append("it has no derivatives in forward mode")
    return reasons


def _reasons_of_tensors(call: Call, parameters: list[Tensor | None]) -> list[str]:
    tensors = [tensor for tensor in (call.x, *call.state, *parameters) if tensor is not None]
    dtypes, device, (batch, _, _, *size) = {t.dtype for t in tensors}, call.x.device.type, call.x.shape
    plain = all(type(tensor) in (Tensor, nn.Parameter, DryTensor) for tensor in tensors)
    real = all(dtype.is_floating_point for dtype in dtypes) and len({t.device for t in tensors}) == 1
    shape = (batch, call.cell.hidden_dim, *size)
    conditions = (
        (device not in ("cpu", "cuda"), f"it runs on cpu and cuda, not on {device}"),
        (not plain, "it takes plain tensors, no subclasses"),
        (not real, "it takes real tensors on one device"),
        (len(dtypes) > 1 and not torch.is_autocast_enabled(device), "dtypes differ outside autocast"),
        (any(part.shape != shape for part in call.state), "the state has another shape than the frames"),
    )
    return [reason for holds, reason in conditions if holds]


def has_own_forward(cell: Cell) -> bool:
    """True if a cell's class or the cell itself overrides `Cell.forward`."""
    return "forward" in cell.__dict__ or type(cell).forward is not _FORWARD


def loop_is_faster(call: Call, engine: str = "auto") -> bool:
    """True if the reference runs a call sooner than the engine asked for, ``auto`` or ``fused``.

    It depends on sizes, dtype and the processor, never on a measurement: a training run repeats bit for bit.

    - Small calls (`config.small_on_cpu`) that are not one call of C++ (`plan.is_one_call`), as those with
      missing frames, or that have few channels for their pixels (`config.one_call_pixels_of_channel`). On a
      GPU: single frames with gradients, for which no CUDA graph is replayed.
    - Few pixels in few frames (`config.few_pixels_on_cpu`) that are not one call of C++, such as the single
      frames of a forecast in training: weights would be arranged for them anew.
    - Kernels above 3x3 in fp32 on a processor with AVX2 and no AVX-512
      (`direct.is_channels_first_faster`) that the fast engines convolve directly, unless ``save`` is
      given, which the loop does not support: there the fast engines reached 0.77 to 0.98 of its speed.

    ``fused`` leaves smaller calls alone to the loop, on a CPU and unless ``save`` is given.

    Measured: docs/decisions/small-calls.md.
    """
    cell, x, auto = call.cell, call.x, engine == "auto"
    if torch.compiler.is_compiling() or linear.is_supported(call):
        return False
    pixels = x.numel() // max(1, x.shape[2])
    if x.device.type != "cpu":
        numbers = pixels * getattr(cell, "hidden_dim", 0)
        return auto and x.shape[1] == 1 and torch.is_grad_enabled() and numbers <= config.small_on_gpu
    conv = cell.conv if isinstance(cell, ConvCell) else None
    weight = conv.weight if isinstance(conv, _ConvNd) else None
    if weight is None or x.dtype == torch.float64 or (not auto and call.save != "auto"):
        return False
    single, differentiated = x.shape[1] == 1, torch.is_grad_enabled()
    count, few = pixels * x.shape[1], config.few_pixels_on_cpu
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return count <= 2 * few
    times = 0.5
    if auto:
        missing = _compiler_missing("cpu") is not None
        large_kernel = math.prod(cell.kernel_size) > 9 and is_channels_first_faster(x.dtype, "cpu")
        if large_kernel and call.save == "auto" and not _is_transformed(call):
            return True
        few_channels = pixels > config.one_call_pixels_of_channel * x.shape[1] * cell.hidden_dim
        if not missing and not few_channels and _is_one_call(call):
            return False
        times = 6 if missing else 2.5 if single and differentiated else 1
    if single and not differentiated:
        few //= 8
    return count <= few or pixels * weight.numel() <= times * config.small_on_cpu


def _is_one_call(call: Call) -> bool:
    """`Plan.is_one_call` of a call that compiled kernels run."""
    cell, flagged = call.cell, call.mask is not None or call.reset is not None
    options = cell.dilation, cell.padding_mode, call.save
    return call.x.dtype == torch.float32 and is_one_call(call.x, cell.conv.weight, *options, flagged=flagged)


def _algorithms(call: Call, *, compiled: bool) -> tuple[str, str]:
    """Algorithms for the frames and for the hidden state, as `SameConv.split_weight` chooses them."""
    cell, (batch, steps), size = call.cell, call.x.shape[:2], call.x.shape[3:]
    conv, (outputs, both, *kernel) = SameConv(cell.dilation, cell.padding_mode, steps), cell.conv.weight.shape
    shapes = ((outputs, channels, *kernel) for channels in (cell.input_dim, both - cell.input_dim))
    of_input, of_state = (conv.algorithm(shape, size, batch, compiled=compiled) for shape in shapes)
    return of_input, of_state


def _is_transformed(call: Call) -> bool:
    """True if the fast engines convolve the hidden state by another algorithm than the direct one."""
    return _algorithms(call, compiled=_compiler_missing("cpu") is None)[1] != "direct"
