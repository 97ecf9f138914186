"""The paper's recipes, against what else the paper and its repository say of them."""

from dataclasses import replace

import pytest

from reft_interp.tasks.suites import GLUE, PAPER_RECIPES, Decoding, paper_recipe

# Blocks, width and parameters of the models, as their configurations and model cards have them.
MODELS = {
    "LLaMA-7B": (32, 4096, 6_738_415_616),
    "LLaMA-13B": (40, 5120, 13_015_864_320),
    "Llama-2 7B": (32, 4096, 6_738_415_616),
    "Llama-3 8B": (32, 4096, 8_030_261_248),
    "RoBERTa-base": (12, 768, 124_645_632),
    "RoBERTa-large": (24, 1024, 355_359_744),
}


def share(recipe):
    """Percent of the model's parameters: R (or W₂), W and b of each intervention."""
    blocks, width, parameters = MODELS[recipe.model]
    layers = blocks if recipe.layers == "all" else len(recipe.layers)
    sides = 1 if recipe.tied else recipe.positions.count("+") + 1
    return 100 * layers * sides * (2 * recipe.rank * width + recipe.rank) / parameters


@pytest.mark.parametrize("method", ["LoReFT", "DiReFT"])
@pytest.mark.parametrize(
    ("suite", "model", "printed"),
    [
        # Table 1.
        ("commonsense", "LLaMA-7B", "0.031"),
        ("commonsense", "LLaMA-13B", "0.025"),
        ("commonsense", "Llama-2 7B", "0.031"),
        ("commonsense", "Llama-3 8B", "0.026"),
        # Table 2.
        ("arithmetic", "LLaMA-7B", "0.031"),
        ("arithmetic", "LLaMA-13B", "0.025"),
        # Table 3.
        ("instructions", "Llama-2 7B", "0.0039"),
        # Table 4.
        ("glue/mnli", "RoBERTa-base", "0.015"),
        ("glue/qqp", "RoBERTa-base", "0.015"),
        ("glue/mnli", "RoBERTa-large", "0.014"),
        ("glue/rte", "RoBERTa-large", "0.014"),
    ],
)
def test_parameters_are_those_that_the_paper_counts(method, suite, model, printed):
    recipe = paper_recipe(suite, method=method, model=model)
    decimals = len(printed) - 2
    assert f"{share(recipe):.{decimals}f}" == printed
    assert f"{share(replace(recipe, rank=2 * recipe.rank)):.{decimals}f}" != printed


def test_every_setting_of_glue_was_searched_or_is_remarked_on():
    searched = {  # table 8
        "positions": {"f1", "f3", "f5", "f7", "f9", "f11"},
        "tied": {False},
        "rank": {1, 2},
        "dropout": {0.0, 0.05, 0.1, 0.15, 0.2},
        "learning_rate": {1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 9e-4, 1e-3, 3e-3},
        "weight_decay": {0, 1e-4, 6e-4, 1e-3, 6e-3, 1e-2, 2e-2, 4e-2},
        "batch_size": {16, 32, 64, 128},
        "warmup_ratio": {0, 5e-3, 6e-3, 3e-2, 5e-2, 6e-2, 1e-1, 2e-1},
        "epochs": {20, 30, 40, 50, 60},
    }
    recipes = [recipe for recipe in PAPER_RECIPES if recipe.suite.startswith("glue/")]
    assert len(recipes) == 8 * 2 * 2
    odd = {
        (recipe.suite, recipe.model, recipe.method, name)
        for recipe in recipes
        for name, values in searched.items()
        if getattr(recipe, name) not in values
    }
    remarked = {recipe.title for recipe in recipes if any("not among" in r for r in recipe.remarks)}
    assert {f"{method} on {suite} with {model}" for suite, model, method, _ in odd} == remarked
    assert odd == {
        ("glue/rte", "RoBERTa-base", "DiReFT", "batch_size"),
        ("glue/stsb", "RoBERTa-large", "LoReFT", "learning_rate"),
        ("glue/stsb", "RoBERTa-large", "DiReFT", "learning_rate"),
    }


@pytest.mark.parametrize(
    ("suite", "method"),
    [(s, m) for s in ("commonsense", "arithmetic") for m in ("LoReFT", "DiReFT")],
)
def test_every_other_setting_was_searched(suite, method):
    recipe = paper_recipe(suite, method=method)  # tables 5 and 6
    assert recipe.positions in {f"f{n}+l{n}" for n in (1, 3, 5, 7, 9, 11)}
    assert recipe.rank in {8, 16, 32, 64}
    assert recipe.dropout in {0.0, 0.05}
    assert recipe.learning_rate in {9e-5, 1e-4, 3e-4, 6e-4, 9e-4, 1e-3, 3e-3}
    decays = {0, 1e-3, 2e-3} | ({6e-3, 1e-2, 2e-2, 6e-2} if method == "DiReFT" else set())
    assert recipe.weight_decay in decays
    assert recipe.batch_size in {4, 8, 16, 32, 64}
    assert recipe.warmup_ratio in {0.0, 0.06, 0.1}
    assert recipe.epochs == {"commonsense": 6, "arithmetic": 12}[suite]  # sections 4.2 and 4.3


def test_the_repositorys_command_for_cola_agrees_with_table_9():
    # examples/loreft/original_code/README.md: -l all -r 1 -p f3 -e 60 -lr 4e-4 and so on.
    cola = paper_recipe("glue/cola")
    assert (cola.layers, cola.rank, cola.positions, cola.epochs) == ("all", 1, "f3", 60)
    assert (cola.learning_rate, cola.dropout, cola.warmup_ratio) == (4e-4, 0.2, 0.005)
    assert (cola.batch_size, cola.weight_decay, cola.max_length) == (32, 0.0, 256)


def test_a_recipe_prints_every_setting():
    text = str(paper_recipe("instructions", method="DiReFT"))
    for line in (
        "DiReFT on instructions with Llama-2 7B",
        "positions      f5+l5, untied weights",
        "rank           4",
        "layers         3, 9, 18, 24",
        "batch size     128",
        "epochs         9",
        "learning rate  0.0009",
        "warmup ratio   0",
        "weight decay   0",
        "dropout        0",
        "optimizer      AdamW",
        "schedule       linear",
        "max length     768 tokens",
        "seeds          not stated",
        "decoding       greedy, max_new_tokens 2048, num_beams 1, no_repeat_ngram_size 5, "
        "repetition_penalty 1.1",
        "table 7",
        "remark         seeds: two runs",
    ):
        assert line in text


@pytest.mark.parametrize("recipe", PAPER_RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_says_what_of_it_is_done_otherwise_here(recipe):
    text = str(recipe)
    assert (recipe.dropout > 0) == ("those of the edit alone are dropped" in text)
    # What a classifier reads has no answer that could lose its end.
    assert (recipe.decoding is not None) == ('fit_reft(truncate="answer")' in text)


def test_a_glue_recipe_generates_nothing():
    assert paper_recipe("glue/mnli").decoding is None
    assert "none: a classification head" in str(paper_recipe("glue/mnli"))


def test_decoding_gives_only_what_is_set():
    assert Decoding(32).arguments == {"max_new_tokens": 32, "do_sample": False, "num_beams": 1}
    assert "beam search" in str(Decoding(32, num_beams=4))


def test_all_suites_and_models_are_there():
    suites = {recipe.suite for recipe in PAPER_RECIPES}
    assert suites == {"commonsense", "arithmetic", "instructions", *(f"glue/{n}" for n in GLUE)}
    assert paper_recipe("glue/rte", model="RoBERTa-large").epochs == 30
    assert len({recipe.title for recipe in PAPER_RECIPES}) == len(PAPER_RECIPES) == 46


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"suite must be one of commonsense, .*got 'wnli'"):
        paper_recipe("wnli")
    with pytest.raises(ValueError, match=r"pair that the paper has .*'LoReFT' with 'gpt2'; it has"):
        paper_recipe("arithmetic", model="gpt2")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rank", 0, "rank must be more than 0, got 0"),
        ("learning_rate", -1.0, "learning_rate must be more than 0"),
        ("warmup_ratio", 1.0, "warmup_ratio must be at least 0 and less than 1, got 1.0"),
        ("layers", (), "layers must be"),
        ("layers", (-1, 2), "layers must be"),
        ("positions", "f7+", "f7"),
    ],
)
def test_an_impossible_setting_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(paper_recipe("commonsense"), **{name: value})
