"""What the subspaces of a comparison encode, as one page."""

from reft_interp.report import Report
from reft_interp.sweeps.subspace_comparison import TITLES, Question, SubspaceComparison

_RANGES = (
    "Dots are means, lines the range over places and seeds; in grey the controls, of random "
    "subspaces the range of the draws (of overlaps its middle 95 %)."
)
_PROSE: dict[Question, str] = {
    "encoded": (
        "Logistic regression for the label on what the *untouched* model holds in each subspace, "
        "at the last of the tokens that the ReFT edits (in an encoder the first); predictions out "
        "of fold, on test rows. "
        "Controls: random subspaces of the same rank, shuffled labels, the whole vector, and the "
        "share of the most frequent label. That a label can be read somewhere does not say that "
        "the model uses it there."
    ),
    "interchanges": (
        "DAS, trained on pairs of training rows to swap the label, beside swaps inside what each "
        "ReFT writes and reads; accuracy on held-out pairs. Controls: random subspaces, the whole "
        "vector, no intervention."
    ),
    "overlaps": (
        "Mean squared cosine of the principal angles, beside random subspaces of the same ranks. "
        "The same seed starts all trainings in one subspace, so only different seeds are compared."
    ),
    "effects": (
        "Of what another method changes in the residual stream of the same layer, at the last "
        "of the tokens that the ReFT edits (in an encoder the first of all), the share of the "
        "squared length that lies in what a ReFT writes, beside random subspaces of the same rank."
    ),
}


def document(found: SubspaceComparison) -> Report:
    """A page with all that was asked: one figure first, then each question by itself."""
    page = Report("What the ReFTs' subspaces encode", summary=" ".join(found.notes))
    asked = found.asked()
    if asked:
        page.figure(found.figure(), caption=f"All questions. {_RANGES}", name="subspaces")
    for question in asked:
        page.section(TITLES[question], _PROSE[question])
        page.figure(found.plot(question), caption=_RANGES, name=f"subspace-{question}")
        page.table(
            getattr(found, question),
            caption="Each place and seed, with 95 % intervals where rows are counted.",
            name=f"subspace-{question}",
        )
    if "encoded" not in asked:
        page.section("How much of what varies lies inside")
        page.table(
            found.encoded,
            caption="Each place and seed, with 95 % intervals where rows are counted.",
            name="subspace-encoded",
        )
    if len(found.promoted):
        page.section(
            "Which tokens the directions promote",
            "Each direction, and its negative, through the final norm and the unembedding. The "
            "directions are the subspace's principal axes on the data. A random subspace is among "
            "them: every direction promotes some tokens.",
        )
        page.table(found.promoted, caption="Tokens by falling logit.", name="subspace-promoted")
    return page
