"""Methods side by side on held-out pairs, and what is checked of methods before any is trained.

Next door: `methods` and `reading_methods` are what is compared; `gathering` gives one its controls.
"""

from collections.abc import Iterator, Sequence

from transformer_lens.model_bridge import TransformerBridge

from reft_interp.causal.counterfactuals import Counterfactuals, check_counterfactuals
from reft_interp.causal.interchanges import On, check_tokens, interchange_rows, prepare_interchanges
from reft_interp.causal.methods import FullVector, Method
from reft_interp.causal.task_done import check_does_task
from reft_interp.evaluation import Accuracy, Comparison, accuracy, prepared_accuracies
from reft_interp.models import untrained_copy
from reft_interp.sites import Site, check_site


def compare_methods(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    methods: Sequence[Method],
    *,
    minimum_accuracy: float | int = 0.7,
) -> Comparison:
    """Interchange intervention accuracy of several methods on held-out pairs.

    Args:
        model: the hooked model.
        pairs: methods are fitted on `pairs.train` and scored on `pairs.test`.
        site: where.
        on: which tokens of base and source.
        methods: in the order in which they are listed; names must differ.
        minimum_accuracy: share of held-out bases that the model must get right without an
            intervention, where the pairs were made for another model, or of rows without asking
            any; 0 asks nothing.

    Returns:
        A row a method; of those whose maps are free, one more from an untrained copy of the model;
        "whole vector", if no method is called so; and "no intervention". For a claim about one of
        them, with all controls, see `gather_evidence`.

    Raises:
        TypeError: `pairs` are no `Counterfactuals`, `site` no Site, `methods` no list of methods.
        ValueError: no methods, two of one name, one of a rank above the site's width; tokens that
            a pair does not have; pairs of which the model gets too few bases right; all before
            anything is trained. Or as a method's `fit`.
    """
    check_counterfactuals(pairs)
    check_site(site)
    check_methods(methods, site.width(model))
    check_tokens(model, pairs, on)
    check_does_task(model, pairs, minimum_accuracy)
    whole = FullVector()
    if all(method.name != whole.name for method in methods):
        methods = [*methods, whole]
    rows = [
        (name, score)
        for of_model, named in with_untrained(model, methods)
        for name, score in zip(
            named, _scores(of_model, pairs, site, on, list(named.values())), strict=True
        )
    ]
    bases, _ = interchange_rows(pairs.test)
    return Comparison(
        f"interchange intervention accuracy of {pairs.variable} at {site} on {on}",
        (*rows, ("no intervention", (accuracy(model, bases),))),
    )


def check_methods(methods: Sequence[Method], width: int) -> None:
    """Raise unless these are methods of different names, none of a rank above a site's width.

    Raises:
        TypeError: no list of methods.
        ValueError: none, two of one name, or a rank, or count of directions, above the width.
    """
    listed = list(methods) if isinstance(methods, Sequence) else [methods]
    if not (isinstance(methods, Sequence) and all(map(is_method, listed))):
        raise TypeError(
            f"methods must be a list of methods, as [DAS(rank=4), PCA(rank=4)], got {methods!r}"
        )
    names = [method.name for method in methods]
    if not methods or len(set(names)) != len(names):
        raise ValueError(f"methods must be one or more of different names, got {names}")
    for method in methods:
        for count in ("rank", "components", "singular"):
            given = getattr(method, count, None)
            if isinstance(given, int) and given > width:
                raise ValueError(
                    f"{method.name}: {count} must be between 1 and {width} (the site's width), got "
                    f"{given}"
                )


def is_method(given: object) -> bool:
    """Whether something is a method, and not its class."""
    return isinstance(given, Method) and not isinstance(given, type)


def with_untrained(
    model: TransformerBridge, methods: Sequence[Method]
) -> Iterator[tuple[TransformerBridge, dict[str, Method]]]:
    """The methods by name, on the model; and those whose maps are free once more, on an untrained
    copy of it."""
    yield model, {method.name: method for method in methods}
    free = [method for method in methods if getattr(method, "beside_untrained", False)]
    if free:
        # Made now, so that one model is in memory while the others are fitted.
        yield untrained_copy(model), {f"{one.name}, untrained model": one for one in free}


def _scores(
    model: TransformerBridge,
    pairs: Counterfactuals,
    site: Site,
    on: On,
    methods: Sequence[Method],
) -> list[tuple[Accuracy]]:
    fitted = [method.fit(model, pairs.train, pairs.variable, site, on) for method in methods]
    scores = prepared_accuracies(
        prepare_interchanges(model, pairs.test, [(one, site, on) for one in fitted])
    )
    return [(score,) for score in scores]
