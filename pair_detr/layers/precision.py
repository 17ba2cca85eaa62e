"""Which modules stay in fp32 where a model is stored in fewer bits."""


class FullPrecision:
    """Marks what :func:`pair_detr.prepare_for_inference` leaves in fp32: modules that predict coordinates or scores.

    They cast their inputs to the type of their weights. In training these are of one type, autocast or not, and nothing
    changes.
    """
