"""Models of which a part is frozen: copies share that part's tensors, and states leave it out.

What is frozen is what an adapter stands on (``Generator.trained``). The last norm and the bias of the logits are every
model's own even where they do not train: calibration is folded into them.
"""

import copy
from collections.abc import Callable

from torch import Tensor, nn

OWN = "ln_f."  # what calibration changes, beside a buffer


def frozen(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name that no phase changes: those that an adapter stands on; else none."""
    trained = getattr(model, "trained", None)
    if trained is None:
        return {}
    return {name: p for name, p in model.named_parameters() if name not in trained and not name.startswith(OWN)}


def copy_of(model: nn.Module, shared: Callable[[str], bool] | None = None) -> nn.Module:
    """A copy whose frozen parameters are those of ``model`` itself; all else can change apart.

    ``shared``: says of a parameter's name whether to share it; None: those that are frozen.
    """
    if shared is None:
        parts = frozen(model).values()
    else:
        parts = [p for name, p in model.named_parameters() if shared(name) and not name.startswith(OWN)]
    return copy.deepcopy(model, {id(p): p for p in parts})


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` without what is frozen."""
    state, left_out = model.state_dict(), frozen(model)
    for name in left_out:
        del state[name]
    return state


def load_own_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Takes a state of :func:`own_state`; what is frozen stays as it is. RuntimeError where it does not fit."""
    model.load_state_dict({**frozen(model), **state})


def let_train(model: nn.Module) -> nn.Module:
    """``model``, with gradients for what trains and for nothing else."""
    trained = getattr(model, "trained", None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is None or name in trained)
    return model


def count(model: nn.Module) -> tuple[int, int]:
    """Numbers of values that train, and of all."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
