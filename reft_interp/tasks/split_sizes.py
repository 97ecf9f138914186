"""How many pairs are made to train on, and how many to test on."""


def split_sizes(n: int) -> tuple[int, int]:
    """About two thirds of the pairs for train and the others for test, both even.

    Args:
        n: pairs of both together.

    Raises:
        ValueError: n is odd or below 6.
    """
    if n < 6 or n % 2:
        raise ValueError(f"n must be an even number, at least 6, got {n}")
    test = 2 * round(n / 6)
    return n - test, test
