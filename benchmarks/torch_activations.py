"""PyTorch's activations and their derivatives, by the names that the registry has for them.

They are its own kernels, called without autograd and in place, so that nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_aten = torch.ops.aten
_SELU = 1.6732632423543772, 1.0507009873554805, 1.0  # alpha, scale, scale of the input

Forward = Callable[..., object]  # f(y, *parameters): y = f(y)
Backward = Callable[..., object]  # f(d, x, y, *parameters): d = d f'(x), y = f(x)

TORCH: dict[str, tuple[Forward, Backward | None]] = {
    "sigmoid": (
        torch.sigmoid_,
        lambda d, x, y: _aten.sigmoid_backward.grad_input(d, y, grad_input=d),
    ),
    "tanh": (
        torch.tanh_,
        lambda d, x, y: _aten.tanh_backward.grad_input(d, y, grad_input=d),
    ),
    "relu": (
        torch.relu_,
        lambda d, x, y: _aten.threshold_backward.grad_input(d, y, 0.0, grad_input=d),
    ),
    "leaky_relu": (
        lambda y, slope: _aten.leaky_relu_(y, slope),
        lambda d, x, y, slope: _aten.leaky_relu_backward.grad_input(
            d, y, slope, True, grad_input=d
        ),
    ),
    "elu": (
        lambda y, alpha: _aten.elu_(y, alpha),
        lambda d, x, y, alpha: _aten.elu_backward.grad_input(
            d, alpha, 1.0, 1.0, True, y, grad_input=d
        ),
    ),
    "selu": (
        torch.selu_,
        lambda d, x, y: _aten.elu_backward.grad_input(d, *_SELU, True, y, grad_input=d),
    ),
    "softplus": (
        lambda y: _aten.softplus.out(y, out=y),
        lambda d, x, y: _aten.softplus_backward.grad_input(d, x, 1.0, 20.0, grad_input=d),
    ),
    "gelu": (
        lambda y: _aten.gelu_(y),
        lambda d, x, y: _aten.gelu_backward.grad_input(d, x, grad_input=d),
    ),
    "gelu_tanh": (
        lambda y: _aten.gelu_(y, approximate="tanh"),
        lambda d, x, y: _aten.gelu_backward.grad_input(d, x, approximate="tanh", grad_input=d),
    ),
    "silu": (
        lambda y: _aten.silu_(y),
        lambda d, x, y: _aten.silu_backward.grad_input(d, x, grad_input=d),
    ),
    "mish": (
        lambda y: _aten.mish_(y),
        None,  # only with a result of its own
    ),
    "hard_sigmoid": (
        lambda y: _aten.hardsigmoid_(y),
        lambda d, x, y: _aten.hardsigmoid_backward.grad_input(d, x, grad_input=d),
    ),
    "hard_tanh": (
        lambda y: _aten.hardtanh_(y),
        lambda d, x, y: _aten.hardtanh_backward.grad_input(d, x, -1.0, 1.0, grad_input=d),
    ),
    "relu6": (
        lambda y: _aten.hardtanh_(y, 0.0, 6.0),
        lambda d, x, y: _aten.hardtanh_backward.grad_input(d, x, 0.0, 6.0, grad_input=d),
    ),
}
