"""Images with more objects than a model can find, or an evaluation lets it find."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)

QUERIES_KEY = "MODEL.DETR.NUM_QUERIES"


def warn_beyond(
    name: str, records: Sequence[dict[str, Any]], key: str, limit: int, consequence: str, per_class: bool = False
) -> None:
    """Logs a warning if images have more objects, crowds aside, than a limit that a config key sets.

    ``name`` is what the images are of, such as 'Test set "my_val"'; ``consequence``, a clause, says what happens to the
    objects beyond it. ``per_class`` limits the objects of each class.
    """
    counts = [_largest_count(record, per_class) for record in records]
    largest = max(range(len(counts)), key=counts.__getitem__, default=None)
    if largest is None or counts[largest] <= limit:
        return
    logger.warning(
        "%s: %d of %d images have more objects%s than %s allows (%d), up to %d (%s): %s. Set %s to %d or more.",
        name,
        sum(count > limit for count in counts),
        len(counts),
        " of a class" if per_class else "",
        key,
        limit,
        counts[largest],
        records[largest]["file_name"],
        consequence,
        key,
        counts[largest],
    )


def _largest_count(record: dict[str, Any], per_class: bool) -> int:
    counts = Counter(a["category_id"] for a in record.get("annotations", ()) if not a.get("iscrowd"))
    return max(counts.values(), default=0) if per_class else counts.total()
