"""A second device that is not there: tensors that say they are on it, and refuse to be mixed.

Values are computed on the CPU all the same, so that results can be compared. What is found this way
is any operation that mixes tensors of two devices without moving one; what is not is how fast
moving is, or what a driver does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

SECOND = torch.device("cpu:1")  # real tensors of the CPU are on "cpu"


class OnSecond(Tensor):
    """A tensor that says that it is on the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnSecond":
        made = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SECOND,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnSecond({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Devices():
            return func(*args, **(kwargs or {}))


_MOVING = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _Devices(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        devices = {x.device for x in tensors if isinstance(x, OnSecond) or x.ndim}
        if len(devices) > 1 and func not in _MOVING:
            raise RuntimeError(f"{func} on tensors of {', '.join(sorted(map(str, devices)))}")
        asked = kwargs.get("device")
        plain = dict(kwargs)
        if asked is not None and torch.device(asked) == SECOND:
            plain["device"] = torch.device("cpu")
        out = func(*tree_map(_held, args), **tree_map(_held, plain))
        if func is torch.ops.aten.copy_.default:
            return args[0]
        second = torch.device(asked) == SECOND if asked is not None else SECOND in devices
        if not second:
            return out
        wrapped = tree_map(lambda x: OnSecond(x) if isinstance(x, Tensor) else x, out)
        if any(isinstance(x, OnSecond) for x in tensors):
            return return_and_correct_aliasing(func, args, kwargs, wrapped)
        return wrapped


class _Factories(TorchFunctionMode):
    """What torch does without asking a dispatch mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        if func is Tensor.new_tensor and isinstance(args[0], OnSecond):
            return torch.tensor(args[1], dtype=args[0].dtype).to(SECOND)
        if func is Tensor.tolist and isinstance(args[0], OnSecond):
            return args[0].to("cpu").tolist()
        return func(*args, **kwargs)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnSecond) else x


@contextmanager
def second_device() -> Iterator[None]:
    """Within it, tensors can be on `SECOND`."""
    # A module that is moved: by what the new weight is, not by what memory it has.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Factories(), _Devices():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def spread(model: Any) -> Any:
    """The upper half of a model's blocks, and what stands above them, on the second device.

    The hooks are those of accelerate's `dispatch_model`, which itself takes "cpu" for a place to
    offload to. An output layer that shares the embedding's weights stays with it.

    Args:
        model: transformers', on the CPU; it is changed in place.
    """
    children = list(model.base_model.children())
    at = next(i for i, part in enumerate(children) if isinstance(part, nn.ModuleList))
    blocks = list(cast("nn.ModuleList", children[at]))
    tied = model.config.tie_word_embeddings
    above = [*blocks[len(blocks) // 2 :], *([] if tied else [model.get_output_embeddings()])]
    above += children[at + 1 :]
    below = [*children[:at], *blocks[: len(blocks) // 2]]
    below += [model.get_output_embeddings()] if tied else []
    names = {part: name for name, part in model.named_modules()}
    skipped = model._skip_keys_device_placement
    model.hf_device_map = {}
    for parts, device in ((below, torch.device("cpu")), (above, SECOND)):
        for part in parts:
            add_hook_to_module(part, AlignDevicesHook(device, skip_keys=skipped))
            model.hf_device_map[names[part]] = str(device)
    for part in above:
        _move(part)
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True, skip_keys=skipped))
    return model


def _move(module: nn.Module) -> None:
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not isinstance(weight, OnSecond):
                part._parameters[name] = nn.Parameter(OnSecond(weight.detach()), False)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, OnSecond):
                part._buffers[name] = OnSecond(buffer)
