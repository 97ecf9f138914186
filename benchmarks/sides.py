"""What the speed benchmarks share: prompts of a given length, sides that take turns, medians."""

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from reft_interp import IntervenedModel, Placement, PreparedRows


def texts(tokenizer, count: int, tokens: int, *, seed: int = 0) -> list[str]:
    """Different prompts of exactly so many tokens each, of words that are one token wherever they
    stand."""
    words = [
        word
        for word in (" key door table book river house music paper light stone".split(" "))
        if word
    ]
    chosen = random.Random(seed)
    found = []
    for _ in range(count):
        text = "The" + "".join(f" {chosen.choice(words)}" for _ in range(tokens - 1))
        length = len(tokenizer(text)["input_ids"])
        if length != tokens:
            raise ValueError(f"{text!r} has {length} tokens, not {tokens}")
        found.append(text)
    return found


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Steps:
    """Training steps of our engine: forward, backward, optimiser.

    Args:
        model: the hooked model.
        placements: what is trained, where.
        rows: all of which are in each step.
        sources: for each row the prompt that is read, where an intervention needs it.
        learning_rate: of AdamW.
    """

    def __init__(
        self,
        model,
        placements: list[Placement],
        rows: list[dict],
        sources: list[str] | None = None,
        *,
        learning_rate: float,
    ):
        self.intervened = IntervenedModel(model, placements)
        began = time.perf_counter()
        self.prepared = PreparedRows(self.intervened, rows, sources)
        self.freeze_seconds = time.perf_counter() - began
        self.optimiser = torch.optim.AdamW(
            self.intervened.parameters(), lr=learning_rate, weight_decay=0.0
        )

    def step(self) -> None:
        """One of them."""
        loss = self.intervened(**self.prepared.inputs(range(len(self.prepared))))["loss"]
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def rounds_asked(description: str | None, usual: int = 5) -> int:
    """`--rounds` of the command line: how many turns of each side are timed."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=usual)
    return parser.parse_args().rounds


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, float]:
    """The median seconds of each side, which take turns; a first turn of each is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            spent = side()
            if turn:
                taken[name].append(spent)
        print(
            f"turn {turn}: " + ", ".join(f"{n} {t[-1]:.3f} s" for n, t in taken.items() if t),
            file=sys.stderr,
        )
    return {name: statistics.median(of_side) for name, of_side in taken.items()}


@contextmanager
def peak_memory(interval: float = 0.05) -> Iterator[Callable[[], float]]:
    """Within it, a function that gives the largest resident memory so far, in MB (Linux)."""
    import threading

    largest = [_resident()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            largest[0] = max(largest[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: max(largest[0], _resident())
    finally:
        done.set()
        watcher.join()


def _resident() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(itertools.dropwhile(lambda line: not line.startswith("VmRSS"), status))
    return int(line.split()[1]) / 1024
