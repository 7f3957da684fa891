"""The distance from the training images against scipy, its limit, and its file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import binom
from sklearn.covariance import LedoitWolf
from tiny_models import images, tiny_model

from mlcak_hf.errors import MLCAKError
from mlcak_hf.trust.reference import REFERENCE_FILE, Reference, captured_class_tokens


def tokens(n, seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (n, 6)) * np.arange(1, 7)


@pytest.fixture
def reference():
    return Reference.fit(tokens(200, 0), tokens(99, 1), "digest", "phantoms")


def test_distances_equal_scipy(reference):
    other, found = tokens(20, 2), LedoitWolf().fit(tokens(200, 0))
    expected = [mahalanobis(row, found.location_, found.precision_) for row in other]
    assert reference.distances(other) == pytest.approx(expected, rel=1e-5)


def test_images_like_the_held_out_ones_are_refused_as_rarely_as_promised():
    """Exactly 5 of 100, over held-out images and new ones."""
    refused = []
    for seed in range(200):
        reference = Reference.fit(tokens(50, seed), tokens(99, seed + 1000), "digest", "phantoms", 0.05)
        refused.append(reference.distances(tokens(100, seed + 2000)) > reference.limit)
    assert np.mean(refused) == pytest.approx(0.05, abs=0.006)


def test_chance_alone_rarely_refuses_more_images_than_most_refused(reference):
    """Distances of 99 held-out and 200 new images that are equally distributed, 20,000 times."""
    distances = np.random.default_rng(0).random((20_000, 299))
    limits = np.sort(distances[:, :99], axis=1)[:, 94:95]
    refused = (distances[:, 99:] > limits).sum(axis=1)
    most = reference.most_refused(200)
    assert np.mean(refused > most) <= 0.029
    assert np.mean(refused >= most) >= 0.021
    assert most > binom.ppf(0.975, 200, 0.05), "99 held-out images do not fix the limit exactly"
    assert replace(reference, n_held_out=10**7).most_refused(200) == binom.ppf(0.975, 200, 0.05)


def test_shifted_images_are_refused_with_a_reason(reference):
    far, near = reference.distances(tokens(50, 3, shift=4.0)), reference.distances(tokens(50, 3))
    assert (far > reference.limit).all()
    assert reference.refusal(near.min()) is None
    assert "unlike the training images (distance" in reference.refusal(far.max())


def test_a_reference_without_training_images_says_so():
    tokens = np.random.default_rng(0).normal(size=(60, 4))
    with pytest.raises(MLCAKError, match="at least two training images besides the held-out ones; got 0"):
        Reference.fit(tokens[:0], tokens, "0" * 64, "d")


def test_too_few_images_give_no_limit():
    with pytest.raises(MLCAKError, match="at least 19 images that the model was not trained on; got 18"):
        Reference.fit(tokens(50, 0), tokens(18, 1), "digest", "phantoms")
    assert Reference.fit(tokens(50, 0), tokens(19, 1), "digest", "phantoms").n_held_out == 19


def test_the_file_gives_back_what_was_written_and_belongs_to_its_weights(tmp_path, reference):
    assert Reference.load(tmp_path) is None
    reference.save(tmp_path)
    loaded = Reference.load(tmp_path, weights="digest")
    assert np.array_equal(loaded.distances(tokens(9, 4)), reference.distances(tokens(9, 4)))
    assert (loaded.limit, loaded.dataset, loaded.n_images) == (reference.limit, "phantoms", 200)
    with pytest.raises(MLCAKError, match="made for others"):
        Reference.load(tmp_path, weights="trained again")
    (tmp_path / REFERENCE_FILE).write_bytes(b"damaged")
    with pytest.raises(MLCAKError, match="cannot be read"):
        Reference.load(tmp_path)


def test_the_captured_class_tokens_are_those_of_both_heads():
    model = tiny_model()
    with captured_class_tokens(model) as found, torch.no_grad():
        outputs = [model(images(batch=2, seed=seed)) for seed in (1, 2)]
    assert len(found) == 2
    for token, output in zip(found, outputs, strict=True):
        assert torch.equal(model.classifier(token), output.logits)
        assert torch.equal(model.local_classifier(token), output.local_logits)
    model(images())
    assert len(found) == 2, "nothing is captured outside the block"
