"""Wrong hypotheses: other causal models that give the same answers to the same prompts."""

import inspect
from dataclasses import replace
from string import Formatter
from typing import Any

from reft_interp.causal.model import CausalModel
from reft_interp.tasks.causal_task import CausalTask


def kept_input_hypothesis(task: CausalTask, name: str) -> CausalTask:
    """That a model carries an input unchanged until the end, and computes the answer from it there.

    No prompt tells it from the task's own causal model. Interchanges do, wherever the model has
    worked something out of the input already.

    Args:
        task: with the right hypothesis.
        name: of the input; the variable of the hypothesis is `kept_<name>`, written as the input
            is.

    Raises:
        ValueError: no such input; the task has a variable of the hypothesis's name already.
    """
    model = task.causal_model
    if name not in model.inputs:
        raise ValueError(f"name must be an input ({', '.join(model.inputs)}), got {name!r}")
    kept = f"kept_{name}"
    if kept in model.domains:
        raise ValueError(
            f"the hypothesis's variable would be {kept!r}, which {task.name} has already: give "
            "that one another name"
        )

    def answer(**values: Any) -> Any:
        inputs = {name: values[kept]} | {key: values[key] for key in model.inputs if key != name}
        return model.run(inputs)[task.output]

    # The names of a mechanism's arguments are its parents.
    parents = [kept, *(key for key in model.inputs if key != name)]
    answer.__signature__ = _signature(parents)  # pyright: ignore[reportFunctionMemberAccess]

    def copy(**values: Any) -> Any:
        return values[name]

    copy.__signature__ = _signature([name])  # pyright: ignore[reportFunctionMemberAccess]
    # What the prompt is written from stays, though nothing follows from it.
    named = [key for text in task.templates for _, key, _, _ in Formatter().parse(text) if key]
    behind = model.ancestors(named)
    written = {key: made for key, made in model.mechanisms.items() if key in behind}
    domains = {key: model.domains[key] for key in (*model.inputs, *written, task.output)}
    words = {key: of for key, of in task.words.items() if key in domains}
    if name in words:
        words[kept] = words[name]
    return replace(
        task,
        name=f"{task.name}, {name} is kept",
        causal_model=CausalModel(
            {**domains, kept: model.domains[name]},
            {**written, kept: copy, task.output: answer},
        ),
        words=words,
        balanced=(task.output,),
    )


def _signature(names: list[str]) -> inspect.Signature:
    return inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
