"""What torch and open_clip would do at start although nobody needs it, left out.

Together it is more than half of the processor time between a command and its model: a compiler
that torchvision imports and nothing here calls, and random weights that the model's own replace.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_COMPILER = "torch._dynamo.utils"


class _OnDemand(ModuleType):
    """Stands for torch's compiler while others import a name of it that they do not use yet."""

    @staticmethod
    def is_compile_supported(device_type: Any) -> bool:
        """What torchvision asks when one of its operations is called, which is never here."""
        return bool(_real_compiler().is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real_compiler(), name)


def _real_compiler() -> ModuleType:
    if isinstance(sys.modules.get(_COMPILER), _OnDemand):
        del sys.modules[_COMPILER]
    return importlib.import_module(_COMPILER)


@contextlib.contextmanager
def compiler_on_demand() -> Iterator[None]:
    """While this is open, importing torchvision and timm (as open_clip does) does not bring in
    torch's compiler and sympy, 900 modules in all: torchvision imports a name of it, and timm
    marks methods that are not to be compiled. Whoever wants the compiler still gets it."""
    if _COMPILER in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    # torch's own way to mark a function without the compiler, which the function's first call
    # then brings in.
    mark = getattr(importlib.import_module("torch._compile"), "_disable_dynamo", None)

    def disable_later(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        return mark(fn, recursive) if mark is not None else disable(fn, recursive, reason=reason)

    sys.modules[_COMPILER] = _OnDemand(_COMPILER)
    torch.compiler.disable = disable_later
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if isinstance(sys.modules.get(_COMPILER), _OnDemand):
            del sys.modules[_COMPILER]


_INIT_FILLS = (
    *("uniform_", "normal_", "trunc_normal_", "orthogonal_", "sparse_"),
    *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"),
)
_TENSOR_FILLS = ("normal_", "uniform_", "random_", "erfinv_")
_FILLS = frozenset(
    [getattr(torch.nn.init, name) for name in _INIT_FILLS if hasattr(torch.nn.init, name)]
    + [getattr(torch.Tensor, name) for name in _TENSOR_FILLS]
)


class no_random_weights(TorchFunctionMode):  # type: ignore[misc]
    """While this is open in a thread, tensors that would be filled with random numbers there stay
    as they are: for a network whose every weight is loaded right after. Constants are filled in
    as ever."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
