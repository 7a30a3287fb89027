"""Beginning a network with another run's weights, also one for other classes or bands."""

from pathlib import Path

from torch import Tensor, nn

from swath.config import Config
from swath.errors import CheckpointError
from swath.models import checkpoint
from swath.models.checkpoint import Checkpoint, ModelCard
from swath.models.network import Net

_OWN = ("mean_B11", "std_B11")
"""Tensors that a network has from its own data."""


def begin(net: Net, config: Config, card: ModelCard) -> str:
    """Give a network the weights of the run that `model.init_from` names (the moving average's, where it has one).

    Classes are known by their names: of those that the other run does not have, the last layer's weights stay random.
    A first convolution for another number of bands has the other's weights repeated over them, times their ratio, as
    timm does it. Weights that fuse scales stay random where the other run had not the same ones.

    Returns what there is to say of it. Raises CheckpointError for a checkpoint that is not whole, or that is of another
    network.
    """
    folder = Path(config.model.init_from)
    saved = checkpoint.load(folder)
    _check_alike(folder, saved, config)
    theirs = saved.state.best
    head, fresh = last_layer(net), list[str]()
    if not head and card.classes != saved.card.classes:
        raise CheckpointError(f"model.init_from: {folder} has other classes ({', '.join(saved.card.classes)}), and "
                              f"which layer of {config.model.arch} gives the scores is not known; take a run of the "
                              "same classes in the same order")
    same_scales = _shares(saved.config) == _shares(config)
    for name, tensor in net.state_dict().items():
        if name in _OWN:
            continue
        if name.startswith("fusion.") and not same_scales:
            fresh.append(name)
        elif name in head:
            tensor.copy_(_rows(tensor, theirs[name], card.classes, saved.card.classes))
        elif name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
        elif name in theirs and tensor.ndim == 4 and _but_bands(theirs[name]) == _but_bands(tensor):
            tensor.copy_(_bands(theirs[name], tensor.shape[1]))
        else:
            fresh.append(name)
    if any(not name.startswith("fusion.") for name in fresh):
        raise CheckpointError(f"model.init_from: {folder} has no weights that fit {fresh[0]}; was it written by "
                              "another version?")
    unknown = ", ".join(name for name in card.classes if name not in saved.card.classes)
    return (f"begun with the weights of {folder}" + (f"; classes that it did not have: {unknown}" if unknown else "")
            + ("; the fusion of scales begins anew" if fresh else ""))


def _check_alike(folder: Path, saved: Checkpoint, config: Config) -> None:
    ours, theirs = config.model, saved.config.model
    differ = [f"model.{field} is {getattr(theirs, field)} there and {getattr(ours, field)} here"
              for field in ("arch", "encoder", "norm", "aspp", "attention")
              if getattr(theirs, field) != getattr(ours, field)]
    if differ:
        raise CheckpointError(f"model.init_from: {folder} is of another network ({'; '.join(differ)}); take the same "
                              "network, or another run")


def _shares(config: Config) -> list[float]:
    """What of each scale's patch the finest one covers, where scales are fused; else nothing."""
    scales = config.patches.scales
    return [scales[0] / scale for scale in scales] if config.patches.is_concentric else []


def _but_bands(weights: Tensor) -> tuple[int, ...]:
    return (weights.shape[0], *weights.shape[2:])


def last_layer(net: Net) -> tuple[str, ...]:
    """Names of the parameters of the layer that gives the scores; none for a network of one's own, where that layer is
    not known."""
    layers = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)]
    heads = [name for name in layers if name.startswith("net.segmentation_head.")]
    return tuple(f"{heads[-1]}.{part}" for part in ("weight", "bias")) if heads else ()


def _rows(own: Tensor, theirs: Tensor, classes: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """The last layer's weights with those of the classes that both have, each to its place."""
    found = own.clone()
    for row, name in enumerate(classes):
        if name in known:
            found[row] = theirs[known.index(name)]
    both = min(len(own) - len(classes), len(theirs) - len(known))  # what the fusion of scales looks at
    found[len(classes):len(classes) + both] = theirs[len(known):len(known) + both]
    return found


def _bands(theirs: Tensor, bands: int) -> Tensor:
    """A convolution's weights (out, in, kernel, kernel) for another number of bands."""
    before = theirs.shape[1]
    repeated = theirs.repeat(1, -(-bands // before), 1, 1)[:, :bands]
    return repeated * (before / bands)
