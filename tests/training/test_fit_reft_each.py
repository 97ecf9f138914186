"""ReFTs that are trained together end where each ends alone."""

from typing import Any

import numpy as np
import pytest
from torch.testing import assert_close

import reft_interp as ri

ROWS = [
    {
        "prompt": f"The {other} near the {noun}{plural}",
        "answer": " are" if plural else " is",
        "choices": [" is", " are"],
    }
    for noun in ("key", "door", "film", "car", "book", "city")
    for plural in ("", "s")
    for other in ("cars", "door")
]
CELLS = [
    ri.ReFTCell(ri.LoReFT(4), ri.Site("resid_post", 0), "l2", seed=0, epochs=5),
    ri.ReFTCell(ri.LoReFT(4), ri.Site("resid_post", 0), "l2", seed=1, epochs=5, batch_size=8),
    ri.ReFTCell(
        ri.DiReFT(2), [ri.Site("resid_post", 0), ri.Site("mlp_out", 1)], learning_rate=1e-2
    ),
    ri.ReFTCell(ri.LoReFT(2), [ri.Site("resid_pre", 0), ri.Site("resid_post", 0)], shared=True),
]


@pytest.mark.parametrize("options", [{}, {"rows_at_once": 16, "over": "choices"}])
def test_each_ends_where_fit_reft_would_take_it(tiny, options):
    model = tiny("llama")
    together = ri.fit_reft_each(model, ROWS, CELLS, progress=False, **options)
    for cell, found in zip(CELLS, together, strict=True):
        alone = ri.fit_reft(
            model,
            ROWS,
            cell.intervention,
            cell.site,
            cell.on,
            shared=cell.shared,
            epochs=cell.epochs,
            learning_rate=cell.learning_rate,
            batch_size=cell.batch_size,
            seed=cell.seed,
            engine="full",
            over=options.get("over", "vocabulary"),
            progress=False,
        )
        assert_close(
            found.intervened.state_dict(), alone.intervened.state_dict(), atol=1e-4, rtol=0
        )
        assert found.losses["loss"].tolist() == pytest.approx(
            alone.losses["loss"].tolist(), abs=1e-4
        )
        assert found.settings == {**alone.settings, "engine": "auto"}
        assert not found.intervened.training


def test_what_cannot_be_trained_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match="at least one cell"):
        ri.fit_reft_each(model, ROWS, [])
    missing = ri.ReFTCell(ri.LoReFT(4), ri.Site("resid_post", 7))
    with pytest.raises(ValueError, match="7"):
        ri.fit_reft_each(model, ROWS, [CELLS[0], missing])
    with pytest.raises(ValueError, match="row 0 has no 'answer'"):
        ri.fit_reft_each(model, [{"prompt": "The key"}], CELLS[:1])


@pytest.mark.usefixtures("no_type_checks")
def test_numbers_of_numpy_are_saved_as_pythons(tiny, tmp_path):
    numbers = {"seed": 1, "batch_size": 8, "epochs": 1}
    given: dict[str, Any] = {name: np.int64(number) for name, number in numbers.items()}
    given["learning_rate"] = np.float32(0.25)
    cell = ri.ReFTCell(ri.LoReFT(4), ri.Site("resid_post", 0), "l2", **given)
    (found,) = ri.fit_reft_each(tiny("llama"), ROWS, [cell], progress=False)
    found.save(tmp_path)
    saved = ri.ReFTResult.load(tmp_path, tiny("llama")).settings
    assert saved == found.settings and saved | numbers | {"learning_rate": 0.25} == saved


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [(0, ValueError, "must be at least 1, got 0"), (1.5, TypeError, "must be a whole number")],
)
def test_no_rows_at_once_are_no_step(tiny, rows, error, said):
    with pytest.raises(error, match=f"rows_at_once {said}"):
        ri.fit_reft_each(tiny("llama"), ROWS, CELLS[:1], rows_at_once=rows)
    with pytest.raises(error, match=f"rows_at_once {said}"):
        ri.fit_das_each(
            tiny("llama"),
            [{"base": "The key", "source": "The keys", "label": " are"}],
            [ri.DASCell(ri.Site("resid_post", 0), "last")],
            rows_at_once=rows,
        )
