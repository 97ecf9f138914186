"""Random numbers that are the same in every run and in every order of the tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test here starts from the same state of torch's generator."""
    torch.manual_seed(0)
