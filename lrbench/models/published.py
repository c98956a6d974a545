"""Pretrained networks that timm and the Hugging Face Hub publish."""

import inspect
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import nn

from lrbench.config import suggestion
from lrbench.core.errors import InputError, as_sentence
from lrbench.models.limits import forward_problem, limited, refuse_arguments
from lrbench.store.references import PretrainedWeights


def fetch_model(weights: PretrainedWeights) -> nn.Module:
    """Load a network with its published weights, from the Hub's cache if they are there.

    Args:
        weights: `timm:NAME.TAG` or `hf-hub:OWNER/NAME`.

    Raises:
        InputError: There are no such weights, they cannot be fetched, or the network is too large or gives no features.
    """
    import timm
    from timm.models import load_state_dict

    if inspect.signature(load_state_dict).parameters["weights_only"].default is not True:
        raise InputError(f"timm {timm.__version__} unpickles what it downloads. Update timm to fetch {weights.text}.")
    if weights.source == "timm":
        refuse_unknown_tag(weights.name)
    try:
        with offline_without_network():
            _refuse_unusable(weights)
            model: nn.Module = timm.create_model(weights.timm_name, pretrained=True)
    except InputError:
        raise
    except Exception as error:
        # Downloads raise many kinds of exception; their first line says most.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise InputError(
            f"the weights of {weights.text} could not be fetched or loaded: {reason[:300]}. Fetch them on a machine with a "
            "network and copy the Hugging Face cache (HF_HOME), or add a file of weights with `lrbench snapshots add FILE "
            "--architecture NAME`."
        ) from error
    return model


def _refuse_unusable(weights: PretrainedWeights) -> None:
    """Check the network on the device `meta`, which needs no memory, before its weights are fetched.

    Raises:
        InputError: It is too large, or does not turn images into features and scores.
    """
    import timm
    from timm.models import load_model_config_from_hf

    text = weights.text
    if weights.source == "hf-hub":
        # Anybody can write a configuration on the Hub.
        configuration, architecture, arguments = load_model_config_from_hf(weights.name)
        try:
            refuse_arguments(architecture, arguments or {}, classes=int(configuration.get("num_classes") or 0))
        except InputError as error:
            raise InputError(f"{text} is not built, because of its config.json: {error}") from error
    with torch.device("meta"), limited(text):
        model: nn.Module = timm.create_model(weights.timm_name)
    problem = forward_problem(model, int(getattr(model, "num_classes", 0)), -1)
    if problem:
        raise InputError(
            f"{text} does not turn images into features and scores: {as_sentence(problem)} Use another model."
        )


@contextmanager
def offline_without_network() -> Iterator[None]:
    """Make the Hub's library use only its cache if the Hub's name does not resolve; it would retry for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _resolves(urlsplit(constants.ENDPOINT).hostname or "")
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _resolves(host: str) -> bool:
    """Return whether a host name resolves, or a proxy is set."""
    if getproxies().keys() & {"http", "https", "all"}:
        return True
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def refuse_unknown_tag(name: str) -> None:
    """Refuse a name with a tag for which timm has no weights.

    Raises:
        InputError: timm has no such weights; suggests similar names.
    """
    import timm

    known = timm.list_pretrained()
    if name not in known:
        base = name.partition(".")[0]
        tags = [tag for tag in known if tag.partition(".")[0] == base]
        listed = f" It has {', '.join(tags[:6])}." if tags else ""
        raise InputError(
            f"timm {timm.__version__} has no weights {name!r}.{suggestion(name, tags or known)}{listed} "
            f"timm:{base} is the architecture with random weights."
        )


def published_classes(name: str) -> int:
    """Number of classes of timm's default weights of an architecture; 1000 if it has none."""
    import timm

    if not timm.is_model(name):
        return 1000
    configuration = timm.get_pretrained_cfg(name)
    return int(configuration.num_classes) if configuration is not None and configuration.num_classes else 1000
