"""Causal models: variables, what they depend on, and what an interchange among them implies.

A hypothesis about how a network computes its answer is a causal model; what DAS and its relatives
test is whether interchanges in the network do what interchanges here say (Geiger et al. 2021,
arXiv:2106.02997). Here: the variables alone. Above,
`tasks.causal_task` writes them as text.
"""

import inspect
import itertools
import math
import random
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Setting = Mapping[str, Any]
"""Values of variables by name. With all of a model's variables it is complete."""


_ENUMERATED = 10_000
"""Combinations of inputs that are all tried; of more, `_DRAWN` are."""
_DRAWN = 1000


class CausalModel:
    """Variables with finite domains, some given as input, the others computed from them.

    A mechanism is a plain function; the names of its arguments are the variable's parents:

        CausalModel(
            domains={"x": range(10), "y": range(10), "sum": range(19), "carry": [False, True]},
            mechanisms={"sum": lambda x, y: x + y, "carry": lambda sum: sum > 9},
        )

    Args:
        domains: the values that each variable can have; all variables are named here.
        mechanisms: for each variable that is not an input, how it is computed from its parents.

    Raises:
        TypeError: a domain that is no list of values that can be looked up; a mechanism is no
            function, or takes arguments without names.
        ValueError: no variables, an empty domain or one with a value twice, a mechanism for a
            variable without domain, a parent that is no variable or has a default, a cycle,
            inputs only, or inputs for which a mechanism raises an error or leaves the domain of its
            variable (of more than 10,000 combinations of the inputs that count, some are tried).
    """

    def __init__(
        self,
        domains: Mapping[str, Sequence[Hashable]],
        mechanisms: Mapping[str, Callable[..., Any]],
    ):
        self.domains = {name: _domain(name, values) for name, values in domains.items()}
        self._own = {name: {one: one for one in domain} for name, domain in self.domains.items()}
        self.mechanisms = dict(mechanisms)
        if not self.domains:
            raise ValueError("domains must name at least one variable, got none")
        if not self.mechanisms:
            raise ValueError(
                "mechanisms must compute at least one variable, got none: a model of inputs only "
                "implies nothing"
            )
        self.parents: dict[str, tuple[str, ...]] = {
            name: _parents(name, self.mechanisms[name], self.domains)
            if name in self.mechanisms
            else ()
            for name in self.domains
        }
        for name in self.mechanisms:
            if name not in self.domains:
                raise ValueError(
                    f"mechanisms: {name!r} has no domain; domains has {sorted(self.domains)}"
                )
            for parent in self.parents[name]:
                if parent not in self.domains:
                    raise ValueError(
                        f"mechanisms: {name!r} takes {parent!r}, which is no variable; "
                        f"domains has {sorted(self.domains)}"
                    )
        try:
            self._order = tuple(TopologicalSorter(self.parents).static_order())
        except CycleError as error:
            raise ValueError(
                f"mechanisms must have no cycle, got {' -> '.join(error.args[1])}"
            ) from None
        self._check_mechanisms()

    @property
    def variables(self) -> tuple[str, ...]:
        """All of them, parents first."""
        return self._order

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those without a mechanism, in the order in which they were named."""
        return tuple(name for name in self.domains if name not in self.mechanisms)

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The variables on which these depend, themselves among them."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.parents[name]
        return found

    def run(self, inputs: Setting, do: Setting | None = None) -> dict[str, Any]:
        """The value of every variable.

        Args:
            inputs: a value for each input.
            do: variables held at a value, whatever their parents (an intervention).

        Returns:
            A complete setting. Of values that are equal, as True and 1, those of the domain.

        Raises:
            ValueError: an input is missing, a name is no variable, a computed variable is given
                as input, a mechanism raises an error, or a value, given or computed, is outside
                its domain.
        """
        do = dict(do or {})
        self._check_names("inputs", inputs, self.inputs)
        self._check_names("do", do, self.variables)
        missing = [name for name in self.inputs if name not in inputs and name not in do]
        if missing:
            raise ValueError(f"inputs must have a value for {missing}, got {dict(inputs)}")
        setting: dict[str, Any] = {}
        for name in self._order:
            if name in do:
                value = self._inside("do", name, do[name])
            elif name in self.mechanisms:
                value = self._computed(name, setting)
            else:
                value = self._inside("inputs", name, inputs[name])
            setting[name] = value
        return setting

    def interchange(self, base: Setting, sources: Mapping[str, Setting]) -> dict[str, Any]:
        """The base's setting, once variables have the values that they have in sources.

        Interchanges nest: a source may be what another interchange returned.

        Args:
            base: a value for each input, or a complete setting, of which the inputs count.
            sources: for each variable that is swapped, the source it is taken from: inputs, or
                a complete setting, which is taken as it is.

        Raises:
            ValueError: as `run`; no sources.
        """
        if not sources:
            raise ValueError("sources must name at least one variable, got none")
        self._check_names("sources", sources, self.variables)
        taken = {name: self._complete(source)[name] for name, source in sources.items()}
        return self.run({name: base[name] for name in self.inputs if name in base}, taken)

    def settings(self) -> Iterator[dict[str, Any]]:
        """The complete setting of every input, in order."""
        for values in itertools.product(*(self.domains[name] for name in self.inputs)):
            yield self.run(dict(zip(self.inputs, values, strict=True)))

    def tried_inputs(self, names: Collection[str]) -> Iterator[dict[str, Any]]:
        """Values of these inputs: every combination, or, of more than 10,000, a thousand drawn
        with a fixed seed."""
        domains = [self.domains[name] for name in names]
        if math.prod(map(len, domains)) <= _ENUMERATED:
            combinations = itertools.product(*domains)
        else:
            rng = random.Random(0)
            combinations = (tuple(map(rng.choice, domains)) for _ in range(_DRAWN))
        for values in combinations:
            yield dict(zip(names, values, strict=True))

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """The complete setting of inputs drawn uniformly and independently."""
        drawn = {}
        for name in self.inputs:
            domain = self.domains[name]
            drawn[name] = domain[int(rng.integers(len(domain)))]
        return self.run(drawn)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """A drawing of the graph: inputs at the bottom, and above each variable what it causes.

        Args:
            ax: where to draw; a figure of its own by default.
        """
        from reft_interp import plotting

        depth: dict[str, int] = {}
        for name in self._order:
            depth[name] = 1 + max((depth[parent] for parent in self.parents[name]), default=-1)
        return plotting.graph(
            {name: depth[name] for name in self.domains},
            [(parent, name) for name in self._order for parent in self.parents[name]],
            ax=ax,
        )

    def __repr__(self) -> str:
        parts = [
            f"{name}({', '.join(self.parents[name])})" if name in self.mechanisms else name
            for name in self._order
        ]
        return f"CausalModel({', '.join(parts)})"

    def _complete(self, setting: Setting) -> Setting:
        """The setting itself where it has every variable, else what follows from its inputs."""
        return setting if set(self.domains) <= set(setting) else self.run(setting)

    def _check_mechanisms(self) -> None:
        """Raise if a mechanism leaves the domain of its variable."""
        tried: set[str] = set()
        # From the last: what is before it is tried with it.
        for last in reversed(self._order):
            if last in tried or last not in self.mechanisms:
                continue
            behind = self.ancestors([last])
            computed = [one for one in self._order if one in behind and one in self.mechanisms]
            inputs = [one for one in self.inputs if one in behind]
            for setting in self.tried_inputs(inputs):
                for name in computed:
                    setting[name] = self._computed(name, setting)
            if math.prod(len(self.domains[one]) for one in inputs) <= _ENUMERATED:
                tried |= behind

    def _computed(self, name: str, setting: Setting) -> Any:
        given = {parent: setting[parent] for parent in self.parents[name]}
        try:
            value = self.mechanisms[name](**given)
        except Exception as error:
            raise ValueError(
                f"the mechanism of {name!r}, given {given}, raises {type(error).__name__}: {error}"
            ) from error
        return self._inside(f"the mechanism of {name!r}", name, value, given)

    def _inside(self, argument: str, name: str, value: Any, given: Setting | None = None) -> Any:
        """The value as the domain has it: True where the domain has 1 would be another text."""
        try:
            return self._own[name][value]
        except (KeyError, TypeError):  # a list, say, is no key
            domain = self.domains[name]
            shown = ", ".join(map(repr, domain[:8])) + (", ..." if len(domain) > 8 else "")
            told = "" if given is None else f", given {given},"
            raise ValueError(
                f"{argument}{told} gives {name!r} the value {value!r}, which is not in its domain "
                f"({shown})"
            ) from None

    @staticmethod
    def _check_names(argument: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"{argument} has {unknown}, which it can't have; it takes {[*known]}")


def _domain(name: str, values: Sequence[Hashable]) -> tuple[Hashable, ...]:
    if isinstance(values, str | bytes | set | frozenset):
        why = "is one text" if isinstance(values, str | bytes) else "has another order in each run"
        raise TypeError(
            f"domains: {name!r} must be a list of its values, got {values!r}, which {why}"
        )
    try:
        domain = tuple(values)
    except TypeError:
        raise TypeError(f"domains: {name!r} must be a list of its values, got {values!r}") from None
    for value in domain:
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"domains: {name!r} has {value!r}, which cannot be looked up; where it is a list, "
                "make it a tuple"
            ) from None
    if not domain:
        raise ValueError(f"domains: {name!r} must have at least one value, got none")
    if len(set(domain)) != len(domain):
        raise ValueError(f"domains: {name!r} has a value twice: {domain}")
    return domain


def _parents(
    name: str, mechanism: Callable[..., Any], variables: Collection[str]
) -> tuple[str, ...]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        arguments = inspect.signature(mechanism).parameters.values()
    except (TypeError, ValueError):
        raise TypeError(
            f"mechanisms: {name!r} must be a function that tells the names of its arguments (its "
            f"parents), got {mechanism!r}"
        ) from None
    for argument in arguments:
        if argument.kind not in named:
            raise TypeError(
                f"mechanisms: {name!r} takes {argument}; each argument must have the name of one "
                "of its parents"
            )
        if argument.name in variables and argument.default is not inspect.Parameter.empty:
            raise ValueError(
                f"mechanisms: {name!r} takes the variable {argument.name!r} with a default, "
                f"{argument.default!r}; a parent has none"
            )
    return tuple(
        argument.name
        for argument in arguments
        # An argument with a default is how a loop's value is bound; it is no parent.
        if argument.default is inspect.Parameter.empty
    )
