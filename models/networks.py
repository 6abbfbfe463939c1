"""Networks by name, and the outputs of their layers."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints import hub_folder
from utils import InputError
from utils.io.readers import one_line

OUTPUT = "output"  # what a network itself returns
TIMM = "timm"
_MAX_NAMED = 12


# -------------------------------------------------------------------------------------------------------------- layers


class LayerOutputs(nn.Module):
    """Returns the outputs of layers of a network under the requested names, in the requested order.

    Layers are modules, whose outputs are copied when they are computed: later operations may overwrite them. Of a
    module that is used several times the last output counts. The network runs as it is, whatever its forward does;
    nothing is computed beyond the last layer where each was used once for the first images.

    Parameters
    ----------
    model : nn.Module
        In eval mode. A model may have other names for its layers, `aliases` (a mapping to names of modules).
    layers : sequence of str
        Names of modules, or "output" for what the network returns.

    Raises
    ------
    InputError
        If there is no such layer or none is given (the message lists those that exist).
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._modules_of = {layer: _module_of(layer, model) for layer in _given(layers, model)}
        self._used_once = False

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Run on images, (N, C, H, W); returns outputs by layer, as the modules return them.

        Raises
        ------
        InputError
            If the network did not use a layer.
        """
        found: dict[str, Any] = {}
        calls: Counter[str] = Counter()

        def keep(layer: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
            found[layer] = _copied(output)
            calls[layer] += 1
            if self._used_once and len(found) == len(self._modules_of):
                raise _EveryLayerFound

        handles = [module.register_forward_hook(partial(keep, layer)) for layer, module in self._modules_of.items()]
        try:
            self.model(x)
            self._used_once = all(n == 1 for n in calls.values())
        except _EveryLayerFound:
            pass
        finally:
            for handle in handles:
                handle.remove()
        unused = [layer for layer in self._modules_of if layer not in found]
        if unused:
            raise InputError(
                f"{type(self.model).__name__}: layer(s) {', '.join(unused)} were not used for these images; "
                "choose others (`list_layers` shows those that are)"
            )
        return {layer: found[layer] for layer in self._modules_of}


class _EveryLayerFound(Exception):
    """Ends the run of a network early."""


def _copied(output: Any) -> Any:
    """The output of a layer; of several tensors, the one that can be told to be the output."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0].clone()
    if isinstance(output, Mapping):
        tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
        for name in ("last_hidden_state", "out", *tensors):
            if name in tensors and (name in ("last_hidden_state", "out") or len(tensors) == 1):
                return tensors[name].clone()
    return output


def _given(layers: Sequence[str], model: nn.Module) -> Sequence[str]:
    if not layers:
        raise InputError(f"`layers` is missing; choose from {_some(_layer_names(model))}")
    return layers


def _layer_names(model: nn.Module) -> list[str]:
    return [*getattr(model, "aliases", {}), *(name for name, _ in model.named_modules() if name), OUTPUT]


def _module_of(layer: str, model: nn.Module) -> nn.Module:
    modules = dict(model.named_modules())
    name = getattr(model, "aliases", {}).get(layer, layer)
    if name in modules and name:
        return modules[name]
    if name == OUTPUT:
        return model
    names = _layer_names(model)
    close = difflib.get_close_matches(layer, names, n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(f"{type(model).__name__} has no layer '{layer}'{guess}; there are {_some(names)}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more (see `list_layers`)" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def describe_layers(model: nn.Module, images: Tensor) -> list[tuple[str, str, str]]:
    """What layers a network uses for images, in the order in which they end.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    images : Tensor, shape (N, C, H, W)

    Returns
    -------
    list of (str, str, str)
        Name, class, and shape of the output for one image (or the type of what is no tensor).
    """
    rows: dict[str, tuple[str, str, str]] = {}

    def note(name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        output = _copied(output)
        shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else type(output).__name__
        rows.pop(name, None)
        rows[name] = (name, type(module).__name__, shape)

    handles = [module.register_forward_hook(partial(note, name or OUTPUT)) for name, module in model.named_modules()]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    others = {name: alias for alias, name in getattr(model, "aliases", {}).items()}
    return [(others.get(name, name), kind, shape) for name, kind, shape in rows.values()]


# ------------------------------------------------------------------------------------------------------------ networks


def load_network(spec: str, seed: int = 0) -> nn.Module:
    """A network of the user's own, of torchvision or of timm.

    Parameters
    ----------
    spec : str
        ``module:function``, where the function takes no arguments and returns an `nn.Module`; a torchvision model,
        untrained (``resnet18``) or with weights, which are kept in torch hub's cache (``resnet18:DEFAULT``); or a
        network of timm, untrained (``timm:resnet18``) or with weights (``timm:resnet18.a1_in1k``
        or ``timm:resnet18:DEFAULT``).
    seed : int
        Seed of everything random while the network is built; the global random state is restored afterwards.

    Returns
    -------
    nn.Module
        In eval mode, without gradients.

    Raises
    ------
    InputError
        If there is no such module, function, model or set of weights, or the function fails.
    """
    from torchvision.models import list_models

    name, _, rest = spec.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        if name == TIMM and rest:
            network = _timm_network(rest)
        elif name in list_models():
            network = _torchvision_network(name, rest)
        elif rest:
            network = _user_network(spec, name, rest)
        else:
            close = difflib.get_close_matches(name, list_models(), n=3)
            raise InputError(
                f"torchvision has no model '{name}'{' (did you mean ' + ' or '.join(close) + '?)' if close else ''}; "
                "give one of its names, or module:function for a network of your own"
            )
    return network.eval().requires_grad_(False)


@contextmanager
def _download_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever fails while weights are fetched into one line."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{what}: cannot be downloaded ({one_line(error)[:200]}); {remedy}") from None


def torchvision_weights(name: str, rest: str) -> Any:
    """Weights of a torchvision model, by their name or DEFAULT; None for an empty name.

    Raises
    ------
    InputError
        If there are no such weights.
    """
    from torchvision.models import get_model_weights

    available: Mapping[str, Any] = get_model_weights(name).__members__
    if rest and rest not in available:
        raise InputError(f"{name} has no weights '{rest}'; there are {', '.join(available)}")
    return available[rest] if rest else None


def _torchvision_network(name: str, rest: str) -> nn.Module:
    from torchvision.models import get_model, get_model_builder

    weights = torchvision_weights(name, rest)
    # Segmentation and detection networks take trained backbones unless they are told not to.
    parts = {"weights_backbone"} & set(inspect.signature(get_model_builder(name)).parameters)
    options = dict.fromkeys(parts)
    if weights is None:
        return get_model(name, weights=None, **options)
    place = hub_folder() / Path(weights.url).name
    with _download_errors(weights.url, f"download it by hand and save it as {place}"):
        return get_model(name, weights=weights, **options)


def timm_module() -> Any:
    """The package timm.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return importlib.import_module(TIMM)
    except ImportError:
        raise InputError("timm is not installed, which networks named timm:… need; run `pip install timm`") from None


def timm_pretrained(rest: str) -> tuple[str, bool]:
    """Name of a network of timm, with its tag, and whether it is pretrained.

    Parameters
    ----------
    rest : str
        ``NAME`` (untrained), ``NAME.TAG`` or ``NAME:DEFAULT`` (pretrained).

    Raises
    ------
    InputError
        If timm has no such network or weights.
    """
    timm = timm_module()
    name, _, weights = rest.partition(":")
    base, _, tag = name.partition(".")
    if base not in timm.list_models():
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        raise InputError(f"timm has no model '{base}'{' (did you mean ' + ' or '.join(close) + '?)' if close else ''}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained() if known.partition(".")[0] == base]
    if weights not in ("", "DEFAULT") or (tag and tag not in tags) or (weights and not tags):
        raise InputError(
            f"timm has no weights '{tag or weights}' of {base}; give one of "
            f"{', '.join(f'{base}.{known}' for known in tags) or 'its untrained networks'}, or {base} untrained"
        )
    if weights and not tag:
        tag = timm.get_pretrained_cfg(base).tag or tags[0]
    return (f"{base}.{tag}" if tag else base), bool(tag)


def _timm_network(rest: str) -> nn.Module:
    name, pretrained = timm_pretrained(rest)
    with _download_errors(f"weights of {name}", "check the connection, or put them into the cache of huggingface_hub"):
        network: nn.Module = timm_module().create_model(name, pretrained=pretrained)
    return network


def _user_network(spec: str, module: str, function: str) -> nn.Module:
    try:
        make: Callable[[], Any] | None = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # the user's module can fail in any way
        raise InputError(
            f"module {module} of '{spec}' cannot be imported ({type(error).__name__}: {error}); "
            "run from the folder that contains it, or add that folder to PYTHONPATH"
        ) from error
    if not callable(make):
        raise InputError(f"module {module} has no function '{function}', as requested by '{spec}'")
    try:
        network = make()
    except Exception as error:
        raise InputError(f"'{spec}' failed with {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"'{spec}' returned {type(network).__name__}, expected a torch.nn.Module")
    return network
