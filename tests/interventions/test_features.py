"""Interchanges of a sparse autoencoder's features, by the formula and on a planted dictionary."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from reft_interp.interop import load_sae
from reft_interp.interventions import FeatureEncoder, FeatureInterchange, SparseAutoencoder

WIDTH, FEATURES = 6, 11


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoencoder(**options) -> SparseAutoencoder:
    encoder = FeatureEncoder(
        draw(WIDTH, FEATURES, seed=1),
        draw(FEATURES, seed=2),
        input_bias=draw(WIDTH, seed=3),
        **options,
    )
    return SparseAutoencoder(encoder, draw(FEATURES, WIDTH, seed=4), draw(WIDTH, seed=5))


def active(h: torch.Tensor, threshold=None, k=None) -> torch.Tensor:
    """The papers' formulas, one token and one feature at a time."""
    found = torch.zeros(len(h), FEATURES, dtype=h.dtype)
    for t, token in enumerate(h):
        before = [
            float((token - draw(WIDTH, seed=3)) @ draw(WIDTH, FEATURES, seed=1)[:, f])
            + float(draw(FEATURES, seed=2)[f])
            for f in range(FEATURES)
        ]
        kept = sorted(range(FEATURES), key=lambda f: -before[f])[: k or FEATURES]
        for f in range(FEATURES):
            above = before[f] > (0 if threshold is None else float(threshold[f]))
            if above and f in kept and before[f] > 0:
                found[t, f] = before[f]
    return found


def choose(edit: FeatureInterchange, features) -> None:
    """Set the mask, as training would."""
    (logits,) = edit.parameters()
    with torch.no_grad():
        logits.fill_(-1)
        logits[list(features)] = 1


THRESHOLD = draw(FEATURES, seed=6).abs()


@pytest.mark.parametrize("options", [{}, {"threshold": THRESHOLD}, {"k": 3}])
def test_features_are_those_of_the_formula(options):
    h = draw(7, WIDTH, seed=8)
    sae = autoencoder(**options)
    assert_close(sae.encoder(h), active(h, **options))
    expected = active(h, **options) @ draw(FEATURES, WIDTH, seed=4) + draw(WIDTH, seed=5)
    assert_close(sae.reconstruct(h), expected)
    assert sae.features == FEATURES


@pytest.mark.parametrize("options", [{}, {"threshold": THRESHOLD}, {"k": 3}])
def test_chosen_features_change_and_the_error_stays(options):
    sae = autoencoder(**options)
    edit = FeatureInterchange(sae, dtype=torch.float64).eval()
    choose(edit, [2, 7])
    base, source = draw(5, WIDTH, seed=9), draw(5, WIDTH, seed=10)
    change = active(source, **options) - active(base, **options)
    directions = draw(FEATURES, WIDTH, seed=4)
    expected = base + sum(change[:, f, None] * directions[f] for f in (2, 7))
    assert_close(edit(base, source), expected)
    # A source that holds the same changes nothing, whatever the autoencoder fails to reconstruct.
    assert torch.equal(edit(base, base), base)
    assert edit.subspace.rank == 2
    chosen = directions[[2, 7]]
    inside = chosen.float() @ edit.subspace.basis.float().T @ edit.subspace.basis.float()
    assert_close(inside, chosen.float(), atol=1e-5, rtol=1e-5)
    assert edit.reads is not None and edit.reads.rank == 2


def test_all_features_of_a_perfect_dictionary_are_the_whole_vector():
    eye = torch.eye(WIDTH, dtype=torch.float64)
    sae = SparseAutoencoder(FeatureEncoder(torch.cat([eye, -eye], 1)), torch.cat([eye, -eye]))
    edit = FeatureInterchange(sae, dtype=torch.float64).eval()
    choose(edit, range(2 * WIDTH))
    base, source = draw(4, WIDTH, seed=1), draw(4, WIDTH, seed=2)
    assert_close(edit(base, source), source)
    choose(edit, [])
    assert torch.equal(edit(base, source), base)
    assert edit.reads is None
    with pytest.raises(ValueError, match="FeatureInterchange swaps no coordinate"):
        edit.subspace  # noqa: B018


def test_only_the_mask_is_trained():
    edit = FeatureInterchange(autoencoder())
    assert [name for name, p in edit.named_parameters() if p.requires_grad] == ["value.mask.logits"]
    edit.train()
    assert_close(edit.penalty(), torch.tensor(0.05))  # sparsity .1, every mask at one half


def test_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r"give one of them, got k=2 and .* \(11,\)"):
        autoencoder(threshold=THRESHOLD, k=2)
    with pytest.raises(ValueError, match="k must be between 1 and 11"):
        autoencoder(k=12)
    with pytest.raises(ValueError, match=r"decoder must have shape \(11, 6\), the encoder's"):
        SparseAutoencoder(autoencoder().encoder, torch.zeros(WIDTH, FEATURES))
    with pytest.raises(ValueError, match="sparsity must be at least 0"):
        FeatureInterchange(autoencoder(), sparsity=-1)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("weight", "given", "message"),
    [
        ((6,), {}, r"weight must have shape \(d, n\), width by features, got \(6,\)"),
        (
            (6, 11),
            {"bias": torch.ones(1)},
            r"bias must have shape \(11,\), one for each feature, got \(1,\)",
        ),
        (
            (6, 11),
            {"input_bias": torch.ones(1)},
            r"input_bias must have shape \(6,\), .*got \(1,\)",
        ),
        ((6, 11), {"threshold": torch.ones(1)}, r"threshold must have shape \(11,\), .*got \(1,\)"),
    ],
)
def test_nothing_of_an_encoder_is_broadcast(weight, given, message):
    with pytest.raises(ValueError, match=message):
        FeatureEncoder(torch.ones(weight), **given)
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\), .*got \(1,\)"):
        SparseAutoencoder(autoencoder().encoder, torch.zeros(FEATURES, WIDTH), torch.ones(1))


def saved(folder, config: str, **other) -> None:
    tensors = {
        "W_enc": draw(WIDTH, FEATURES, seed=1),
        "b_enc": draw(FEATURES, seed=2),
        "W_dec": draw(FEATURES, WIDTH, seed=4),
        "b_dec": draw(WIDTH, seed=3),
        **other,
    }
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(config)


@pytest.mark.parametrize(
    ("config", "other", "options"),
    [
        ('{"architecture": "standard"}', {}, {}),
        ('{"architecture": "jumprelu"}', {"threshold": THRESHOLD}, {"threshold": THRESHOLD}),
        ('{"architecture": "topk", "k": 3}', {}, {"k": 3}),
        (
            '{"architecture": "standard", "activation_fn_str": "topk", '
            '"activation_fn_kwargs": {"k": 3}, "finetuning_scaling_factor": false}',
            {},
            {"k": 3},
        ),
    ],
)
def test_reads_what_sae_lens_saves(tmp_path, config, other, options):
    saved(tmp_path, config, **other)
    h = draw(7, WIDTH, seed=8)
    assert_close(load_sae(tmp_path).encoder(h), active(h, **options))
    expected = active(h, **options) @ draw(FEATURES, WIDTH, seed=4) + draw(WIDTH, seed=3)
    assert_close(load_sae(tmp_path).reconstruct(h), expected)


def test_an_input_may_be_read_as_it_is(tmp_path):
    saved(tmp_path, '{"architecture": "standard", "apply_b_dec_to_input": false}')
    assert not load_sae(tmp_path).encoder.input_bias.any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"architecture": "gated"}', "architecture must be one of standard, jumprelu, topk"),
        ('{"architecture": "jumprelu"}', "it lacks threshold"),
        (
            '{"architecture": "standard", "normalize_activations": "layer_norm"}',
            "normalize_activations is 'layer_norm', which is not supported",
        ),
        (
            '{"architecture": "standard", "activation_fn_str": "tanh-relu"}',
            "activation_fn_str must be relu or topk, got 'tanh-relu'",
        ),
        (
            '{"architecture": "standard", "finetuning_scaling_factor": true}',
            "finetuning_scaling_factor is True, which is not supported",
        ),
        ("{", "cfg.json is damaged"),
        ("[]", "cfg.json is damaged: must be a mapping"),
        ('{"architecture": "topk"}', "cfg.json is damaged: it lacks k"),
        ('{"architecture": "topk", "k": "all"}', "'k' must be a whole number, got 'all'"),
        ('{"architecture": "topk", "k": 99}', "the autoencoder: k must be between 1 and 11"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused(tmp_path, config, message):
    saved(tmp_path, config)
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no cfg\.json"):
        load_sae(tmp_path)


@pytest.mark.usefixtures("no_type_checks")
def test_weights_that_cannot_be_read_are_refused(tmp_path):
    saved(tmp_path, '{"architecture": "standard"}', b_enc=torch.zeros(1))
    with pytest.raises(ValueError, match=r"the autoencoder: bias must have shape \(11,\)"):
        load_sae(tmp_path)
    file = tmp_path / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"sae_weights\.safetensors is damaged"):
        load_sae(tmp_path)
