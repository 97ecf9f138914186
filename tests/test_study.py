"""Study files: what they say, and what is wrong with them."""

from dataclasses import fields, replace

import pytest

import reft_interp as ri
from reft_interp.study import Study
from reft_interp.tasks import plantings


def write(folder, text):
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_combination_is_a_cell(tmp_path, tiny):
    study = Study.read(
        write(
            tmp_path,
            "layers: [1, 0]\ntokens: [subject, -1]\nranks: [1, 4]\nseeds: [0, 3]\nepochs: 7\n",
        )
    )
    cells = study.cells(tiny("llama"))
    assert len(cells) == 2 * 2 * 2 * 2
    assert {(cell.site.layer, cell.on, cell.rank, cell.seed) for cell in cells} == {
        (layer, on, rank, seed)
        for layer in (0, 1)
        for on in ("subject", -1)
        for rank in (1, 4)
        for seed in (0, 3)
    }
    assert {cell.epochs for cell in cells} == {7}
    assert [cell.site.layer for cell in Study().cells(tiny("llama"))] == [0, 1]


def test_heads_are_sites_of_their_own(tiny):
    cells = Study(components=["z"], layers=[1], heads="all").cells(tiny("llama"))
    assert [str(cell.site) for cell in cells] == [f"blocks.1.attn.hook_z[{i}]" for i in range(4)]
    (cell,) = Study(components=["z"], layers=[0], heads=[2]).cells(tiny("llama"))
    assert cell.site.heads == (2,)


def test_only_components_that_have_heads_are_cut_into_them(tiny):
    cells = Study(components=["resid_post", "z"], layers=[1], heads="all").cells(tiny("llama"))
    sites = [ri.Site("resid_post", 1), *(ri.Site("z", 1, head) for head in range(4))]
    assert [cell.site for cell in cells] == sites


def test_a_number_without_a_dot_is_a_number(tmp_path):
    assert Study.read(write(tmp_path, "learning_rate: 5e-3")).learning_rate == 5e-3


def test_a_screening_leaves_a_share_of_the_places(tmp_path):
    planting = plantings()[0]
    pairs = planting.counterfactuals(60)
    study = Study(layers="all", tokens=["last", "first"], ranks=[1, 2], screen=0.25)
    every = study.cells(planting.model)
    some = study.screened_cells(planting.model, pairs, tmp_path)
    assert len(some) == len(every) // 4
    assert set(map(str, some)) < set(map(str, every))
    whole = Study(layers="all").screened_cells(planting.model, pairs, tmp_path / "whole")
    assert whole == Study().cells(planting.model)
    assert not (tmp_path / "whole").exists()


def test_a_folder_is_screened_once_and_only_for_its_own_sweep(tmp_path, monkeypatch):
    planting = plantings()[0]
    pairs, others = planting.counterfactuals(60), planting.counterfactuals(60, seed=1)
    study = Study(layers="all", tokens=["last", "first"], screen=0.25, epochs=1)
    some = study.screened_cells(planting.model, pairs, tmp_path / "s")
    ri.sweep(planting.model, pairs, some, tmp_path / "s", progress=False)
    ri.sweep(planting.model, others, some[:1], tmp_path / "other", progress=False)

    def near_tie(model, pairs, cells, keep):
        return cells[-len(some) :]

    monkeypatch.setattr("reft_interp.sweeps.screened.screen_cells", near_tie)
    assert study.screened_cells(planting.model, pairs, tmp_path / "s") == some
    assert study.screened_cells(planting.model, pairs, tmp_path / "new") != some
    # So is a folder of before there was a screening in it: its sweep says what is searched.
    (tmp_path / "s" / "screening.json").unlink()
    assert study.screened_cells(planting.model, pairs, tmp_path / "s") == some
    wider = replace(study, screen=0.5)
    with pytest.raises(ValueError, match="holds another screening: screen differ"):
        wider.screened_cells(planting.model, pairs, tmp_path / "s")
    # Whose folder it is is seen before anything is computed, or written there.
    held = sorted(path.name for path in (tmp_path / "other").iterdir())
    with pytest.raises(ValueError, match="holds another sweep: pairs differ"):
        study.screened_cells(planting.model, pairs, tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == held


def test_pairs_are_read_from_a_folder(tmp_path):
    planting = plantings()[0]
    pairs = planting.counterfactuals(60)
    pairs.save(tmp_path / "pairs")
    study = Study(counterfactuals=str(tmp_path / "pairs"))
    assert study.make_pairs(planting.model).hash == pairs.hash


def test_pairs_are_made_of_a_model_that_gets_as_much_right_as_is_asked(tiny):
    study = Study(pairs=60, minimum_accuracy=1)
    with pytest.raises(ValueError, match=r"share of 1.0 of the prompts right \(minimum_accuracy\)"):
        study.make_pairs(tiny("llama"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer: 3", "'layer' is no key of a study; they are model, counterfactuals"),
        ("- 1", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("components: [residpost]", "each of components must be one of resid_pre, .*'residpost'"),
        ("components: [[z]]", r"each of components must be one of resid_pre, .* got \['z'\]"),
        (
            "heads: all",
            r"heads are parts of the component z, .* among components, \['resid_post'\]",
        ),
        ("heads: [0]\ncomponents: [attn_out]", "heads are parts of the component z, which is not"),
        ("tokens: last", "tokens must be a list of at least one"),
        ("ranks: []", "ranks must be a list of at least one"),
        ("heads: many", 'heads must be a list of numbers, or "all", got'),
        ("screen: 0.0", "screen must be above 0 and at most 1, got 0"),
        ("layers: null", 'layers must be a list of numbers, or "all", got None'),
        ("tokens: [null]", "each of tokens must be a position selector, got None: positions must"),
        ("tokens: [1.5]", "each of tokens must be a position selector, got 1.5"),
        ("tokens: [{a: b}]", "each of tokens must be a position selector, got {'a': 'b'}"),
        ("tokens: [[]]", r"each of tokens must be a .* got \[\]: indices must hold at least one"),
        (
            "tokens: [last, f3-l3]",
            "each of tokens must be a .* got 'f3-l3': positions 'f3-l3': wri",
        ),
        (
            "layers: [0, 1, 0]",
            r"layers must have each of its values once, got 0 twice in \[0, 1, 0",
        ),
        ("tokens: [last, l1]", r"tokens must have each .* got 'l1' twice in \['last', 'l1'\]"),
        ("seeds: [2, 2]", "seeds must have each of its values once, got 2 twice"),
        ("ranks: [2, 2]", "ranks must have each of its values once, got 2 twice"),
        ("components: [z, z]", "components must have each of its values once, got 'z' twice"),
        ("components: [z]\nheads: [3, 3]", "heads must have each of its values once, got 3 twice"),
        ("learning_rate: .inf", "learning_rate must be above 0 and finite, got inf"),
        ("learning_rate: .nan", "learning_rate must be above 0 and finite, got nan"),
        ("minimum_accuracy: .nan", "minimum_accuracy must be between 0 and 1, got nan"),
        ("minimum_accuracy: 70", "minimum_accuracy must be between 0 and 1, got 70"),
        ("minimum_accuracy: null", "minimum_accuracy must be a number, got None"),
        ("layers: 3", 'layers must be a list of numbers, or "all", got 3'),
        ("ranks: 4", "ranks must be a list of at least one, got 4"),
        ("ranks: [1.5]", "each of ranks must be a whole number, at least 1, got 1.5"),
        ("epochs: 0", "epochs must be a whole number, at least 1, got 0"),
        ('pairs: "100"', "pairs must be a whole number, at least 1, got '100'"),
        ("model: null", "model must be a name or a folder, got None"),
        ("learning_rate: fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate: 0", "learning_rate must be above 0 and finite, got 0"),
        ("layers: some", 'layers must be a list of numbers, or "all", got'),
    ],
)
def test_says_what_is_wrong(tmp_path, no_type_checks, text, message):
    with pytest.raises(ValueError, match=message):
        Study.read(write(tmp_path, text))


def test_a_file_must_be_there_and_sites_in_the_model(tmp_path, tiny):
    with pytest.raises(ValueError, match=r"study must be a YAML file, .* which is no file"):
        Study.read(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="layer must be between 0 and 1"):
        Study(layers=[7]).cells(tiny("llama"))


def test_the_file_of_the_help_text_can_be_read(tmp_path):
    from typer.testing import CliRunner

    from reft_interp.cli import app

    shown = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "120"}).output
    keys = [line.split("│")[-1].strip() for line in shown.splitlines()]
    known = {one.name for one in fields(Study)}
    text = "\n".join(line for line in keys if ": " in line and line.split(":")[0] in known)
    study = Study.read(write(tmp_path, text))
    assert study == Study(layers=[2, 11, 20, 29], tokens=["subject", "last"], ranks=[1, 4],
                          seeds=[0, 1], components=["resid_post"])  # fmt: skip
