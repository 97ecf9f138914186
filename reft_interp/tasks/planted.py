"""Models whose causal variable is known to live in a given subspace, because it was put there.

What a method finds elsewhere is only believed; here it can be checked. Each model is a llama of
four layers whose weights are set by hand: one attention layer carries a variable from the
subject's token into a rotated subspace of the last token, and the output reads it there.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reft_interp.causal.counterfactuals import Counterfactuals
from reft_interp.causal.model import CausalModel
from reft_interp.models import wrap_model
from reft_interp.sites import Site
from reft_interp.subspace import Subspace
from reft_interp.tasks.causal_task import CausalTask

WIDTH, LAYERS = 32, 4
_NOUNS = 24
"""Subjects, and as many companions."""
_NUISANCE = 0.05
"""How strongly the nouns' identity is carried along, where the variable is carried by 1."""
_SHARPNESS = 4.0
"""Of the output: the right answer is some four nats ahead of the next one. Far sharper, and a loss
would be content with a subspace that is only roughly right."""


@dataclass(frozen=True, eq=False)
class Planting:
    """A model, a hypothesis about it, and the place where the hypothesis is tested.

    `truth` says whether the variable lives at that place by construction, `subspace` where.
    """

    name: str
    description: str
    model: TransformerBridge = field(repr=False)
    task: CausalTask = field(repr=False)
    variable: tuple[str, ...]
    """What is swapped."""
    site: Site
    rank: int
    """Of the subspace that is tested."""
    subspace: Subspace | None = field(repr=False)
    """Where the variable lives at the site; None where it does not."""
    on: str = "last"

    @property
    def truth(self) -> bool:
        """Whether the variable is carried at the tested site and tokens."""
        return self.subspace is not None

    def counterfactuals(self, n: int = 300, seed: int = 0) -> Counterfactuals:
        """Pairs of this hypothesis; test has other nouns than train.

        The model is not asked whether it gets them right: where nothing is planted it does not.
        """
        return self.task.counterfactuals(None, self.variable, n, seed)


def plantings(*, seed: int = 0) -> list[Planting]:
    """All of them: where the variable is, and where it is not.

    Args:
        seed: of the rotations.
    """
    makers: list[Callable[[int], list[Planting]]] = [
        _one_layer,
        _two_bits,
        _nowhere,
        _two_layers,
        _decoy,
        _overlapping,
    ]
    return [planting for i, make in enumerate(makers) for planting in make(1000 * seed + i)]


def _one_layer(seed: int) -> list[Planting]:
    build = _Build(seed)
    build.carry(1, "subject", build.direction(0))
    build.read(build.direction(0))
    return [
        build.planting(
            "one layer", "Carried to the last token by layer 1, in one direction.", 2,
            build.directions(0),
        ),
        build.planting(
            "one layer, too early", "The same, tested below the layer that carries it.", 0, None
        ),
    ]  # fmt: skip


def _two_bits(seed: int) -> list[Planting]:
    build = _Build(seed, bits=2)
    for bit in range(2):
        build.carry(1, "subject", build.direction(bit), bit=bit)
        build.read(build.direction(bit), bit=bit)
    return [
        build.planting(
            "four values", "Four values in a plane of the last token.", 2, build.directions(0, 1)
        )
    ]


def _nowhere(seed: int) -> list[Planting]:
    build = _Build(seed)
    return [
        build.planting("nowhere", "The answer does not depend on the variable at all.", 2, None)
    ]


def _two_layers(seed: int) -> list[Planting]:
    build = _Build(seed)
    build.carry(1, "subject", build.direction(0), strength=0.3)
    build.carry(3, "subject", build.direction(0), strength=1.0)
    build.read(build.direction(0))
    return [
        build.planting(
            "two layers, between",
            "Layer 3 carries it again, more of it than layer 1: a swap between is outvoted.",
            2,
            None,
        ),
        build.planting("two layers, above", "The same, tested above both.", 3, build.directions(0)),
    ]


def _decoy(seed: int) -> list[Planting]:
    # Weaker than what comes later: a direction between the two reads the decoy and writes what is
    # read, and were the decoy as strong, such a swap would change the answer by itself (the
    # illusion of Makelov, Lange and Nanda 2023, arXiv:2311.17030).
    build = _Build(seed)
    build.carry(1, "subject", build.direction(0), strength=0.3)
    build.carry(3, "subject", build.direction(1))
    build.read(build.direction(1))
    return [
        build.planting(
            "decoy",
            "A direction that holds the variable and that nothing reads; what is read comes later.",
            2,
            None,
        )
    ]


def _overlapping(seed: int) -> list[Planting]:
    # No line carries one of the two alone, so both are swapped: their plane is what is tested.
    build = _Build(seed)
    first, second = build.direction(0), build.direction(1)
    slanted = 0.5 * first + 0.75**0.5 * second  # 60 degrees from the first
    build.carry(1, "subject", first)
    build.carry(1, "companion", slanted)
    # Readouts that see one of the two each, though their directions are not orthogonal.
    build.read(first - second / 3**0.5)
    build.read(second * 2 / 3**0.5, variable="companion")
    return [
        build.planting(
            "overlapping",
            "Two variables in directions 60 degrees apart, swapped together.",
            2,
            build.directions(0, 1),
            variable=("number", "mood"),
        )
    ]


class _Build:
    """Weights of one model, set piece by piece in a rotated basis."""

    def __init__(self, seed: int, *, bits: int = 1):
        self.bits = bits
        generator = torch.Generator().manual_seed(seed)
        self._basis = torch.linalg.qr(
            torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
        ).Q.T
        self._values = list(range(2**bits))
        self._task = self._make_task(seed)
        words = [
            *(f"s{i}" for i in range(_NOUNS)),
            *(f"c{i}" for i in range(_NOUNS)),
            "then",
            *(choice.strip() for choice in self._task.choices),
        ]
        self._ids = {word: i for i, word in enumerate(words)}
        self._maps = torch.zeros(LAYERS, WIDTH, WIDTH, dtype=torch.float64)
        # Layer 1 carries which nouns they are, too: at the last token other things vary as well.
        own = self._basis[10:]
        self._maps[1] += 3 * _NUISANCE / WIDTH**0.5 * own.T @ own
        self._output = torch.zeros(len(words), WIDTH, dtype=torch.float64)
        self._embedding = self._embed(random.Random(seed), generator)
        self._companion_is_read = False

    # The basis: 0..3 what is planted, 4.. what subjects hold, 8.. what companions hold, 9 the
    # companion's planted direction, the rest the identity of each noun.
    def direction(self, i: int) -> Float[Tensor, "d"]:
        """A planted direction."""
        return self._basis[i]

    def directions(self, *numbers: int) -> Subspace:
        """The subspace of some."""
        return Subspace(torch.stack([self.direction(i) for i in numbers]).float())

    def carry(
        self,
        layer: int,
        noun: str,
        direction: Float[Tensor, "d"],
        *,
        bit: int = 0,
        strength: float = 1.0,
    ) -> None:
        """Let a layer's attention write what a noun holds along a direction, at all later tokens.

        Args:
            layer: from 0.
            noun: "subject" or "companion".
            direction: where it is written.
            bit: which of the noun's.
            strength: of the write.
        """
        held = self._basis[4 + bit] if noun == "subject" else self._basis[8]
        # Attention is uniform over three tokens, and what it reads is normed to RMS 1.
        gain = 3 * strength / WIDTH**0.5
        self._maps[layer] += gain * torch.outer(direction, held)
        self._companion_is_read |= noun == "companion"

    def read(
        self, direction: Float[Tensor, "d"], *, bit: int = 0, variable: str = "subject"
    ) -> None:
        """Let the output read a bit along a direction."""
        for value in self._values:
            for mood in (0, 1):
                sign = _signs(value, self.bits)[bit] if variable == "subject" else 2 * mood - 1
                self._output[self._ids[_answer((value, mood))]] += sign * direction

    def planting(
        self,
        name: str,
        description: str,
        layer: int,
        subspace: Subspace | None,
        *,
        variable: tuple[str, ...] = ("number",),
    ) -> Planting:
        """The model as it was built, with a place to test."""
        if not self._companion_is_read:
            self.carry(1, "companion", self._basis[9])
            self.read(self._basis[9], variable="companion")
        rank = self.bits * len(variable) if subspace is None else subspace.rank
        site = Site("resid_post", layer)
        return Planting(
            name, description, self._model(name), self._task, variable, site, rank, subspace
        )

    def _make_task(self, seed: int) -> CausalTask:
        count = len(self._values)
        chosen = random.Random(f"planted {seed}")
        numbers = [i % count for i in range(_NOUNS)]
        moods = [i % 2 for i in range(_NOUNS)]
        chosen.shuffle(numbers)
        chosen.shuffle(moods)
        self._numbers, self._moods = numbers, moods
        return CausalTask(
            "planted",
            CausalModel(
                {
                    "subject": range(_NOUNS),
                    "companion": range(_NOUNS),
                    "number": self._values,
                    "mood": [0, 1],
                    "answer": [(value, mood) for value in self._values for mood in (0, 1)],
                },
                {
                    "number": lambda subject: numbers[subject],
                    "mood": lambda companion: moods[companion],
                    "answer": lambda number, mood: (number, mood),
                },
            ),
            output="answer",
            templates=["{subject} {companion} then"],
            words={
                "subject": lambda value: f"s{value}",
                "companion": lambda value: f"c{value}",
                "answer": _answer,
            },
            held_out=("subject", "companion"),
        )

    def _embed(self, chosen: random.Random, generator: torch.Generator) -> Float[Tensor, "v d"]:
        """Every token has length 1, so that norms treat all alike."""
        rows = torch.zeros(len(self._ids), WIDTH, dtype=torch.float64)
        for word, i in self._ids.items():
            own = torch.zeros(WIDTH, dtype=torch.float64)
            own[10:] = torch.randn(WIDTH - 10, generator=generator, dtype=torch.float64)
            held = torch.zeros(WIDTH, dtype=torch.float64)
            kind, number = word[0], word[1:]
            if kind == "s" and number.isdigit():
                for bit, sign in enumerate(_signs(self._numbers[int(number)], self.bits)):
                    held[4 + bit] = sign
            elif kind == "c" and number.isdigit():
                held[8] = 2 * self._moods[int(number)] - 1
            rows[i] = held + own / own.norm()
            rows[i] /= rows[i].norm()
        return rows @ self._basis

    def _model(self, title: str) -> TransformerBridge:
        config = LlamaConfig(
            vocab_size=len(self._ids),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=16,
            rms_norm_eps=1e-8,
            tie_word_embeddings=False,
            pad_token_id=self._ids["then"],
            bos_token_id=None,
            eos_token_id=None,
        )
        model = LlamaForCausalLM(config)
        weights = {
            "model.embed_tokens.weight": self._embedding,
            "lm_head.weight": _SHARPNESS / WIDTH**0.5 * self._output,
        }
        for layer, written in enumerate(self._maps):
            # Queries and keys stay zero, so that attention is uniform; so do the MLPs.
            attention = f"model.layers.{layer}.self_attn"
            weights[f"{attention}.v_proj.weight"] = torch.eye(WIDTH)
            weights[f"{attention}.o_proj.weight"] = written
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:  # norms keep their ones
                    parameter.copy_(weights.get(name, torch.zeros_like(parameter)))
        return wrap_model(model, _tokenizer(self._ids), name=f"planted: {title}")


def _signs(value: int, bits: int) -> list[int]:
    return [2 * (value >> bit & 1) - 1 for bit in range(bits)]


def _answer(value: tuple[int, int]) -> str:
    number, mood = value
    return f"a{number}{mood}"


def _tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="then"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="then")
