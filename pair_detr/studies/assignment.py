"""Ways to assign objects to queries, to compare with the exact one that training uses.

All take a (T, Q) matrix of costs, T <= Q, and return (T,) the query of each object.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment


def exact(cost: np.ndarray) -> np.ndarray:
    """The least total cost (:func:`scipy.optimize.linear_sum_assignment`, a shortest augmenting path algorithm)."""
    return linear_sum_assignment(cost)[1]


def greedy(cost: np.ndarray) -> np.ndarray:
    """Takes the cheapest pair that is left, again and again."""
    left = cost.astype(np.float64)
    result = np.empty(len(cost), dtype=np.int64)
    for _ in range(len(cost)):
        row, column = np.unravel_index(left.argmin(), left.shape)
        result[row] = column
        left[row] = left[:, column] = np.inf
    return result


def auction(cost: np.ndarray, epsilon: float = 0.01) -> np.ndarray:
    """Objects bid for queries, until each has one. The total cost is at most ``T * epsilon`` above the least.

    Prices start at 0, without which the bound would not hold where queries stay unassigned.

    Source: Bertsekas, "The auction algorithm: a distributed relaxation method for the assignment problem", 1988.
    """
    if cost.shape[1] == 1:
        return np.zeros(len(cost), dtype=np.int64)
    benefit = -cost.astype(np.float64)
    prices = np.zeros(cost.shape[1])
    owner = np.full(cost.shape[1], -1)
    result = np.full(len(cost), -1)
    waiting = list(range(len(cost)))
    while waiting:
        row = waiting.pop()
        value = benefit[row] - prices
        column = value.argmax()
        best = value[column]
        value[column] = -np.inf
        prices[column] += best - value.max() + epsilon
        if (previous := owner[column]) >= 0:
            waiting.append(previous)
        owner[column] = row
        result[row] = column
    return result


def sinkhorn(cost: np.ndarray, temperature: float = 0.1, iterations: int = 100) -> np.ndarray:
    """The query with the most mass of each object in an entropic transport plan; two objects may share one.

    A further row takes the mass of the queries that stay without an object, at no cost.

    Source: arXiv 1306.0895.
    """
    num_objects, num_queries = cost.shape
    log_kernel = np.zeros((num_objects + 1, num_queries))
    log_kernel[:-1] = -(cost - cost.min()) / temperature
    log_mass = np.zeros(num_objects + 1)
    with np.errstate(divide="ignore"):
        log_mass[-1] = np.log(num_queries - num_objects)
    columns = np.zeros(num_queries)
    for _ in range(iterations):
        rows = log_mass - np.logaddexp.reduce(log_kernel + columns, axis=1)
        columns = -np.logaddexp.reduce(log_kernel + rows[:, None], axis=0)
    return (log_kernel[:-1] + columns).argmax(1)


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact (scipy)": exact,
    "greedy": greedy,
    "auction, epsilon 0.01": auction,
    "Sinkhorn, temperature 0.1": sinkhorn,
}
