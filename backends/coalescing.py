"""Several changes as the one that they come to."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from backends.types import Batch, Change, Ids


def coalesced(changes: Sequence[Change]) -> tuple[Batch, Ids]:
    """Return the chunks that are to be there in the end, as they came, and the ids that are not, int64 ascending.

    For each id the last that was said of it holds; within one change its upserts come after its deletes. No id is
    in both. Needs one change at least.
    """
    ids = np.concatenate([part for change in changes for part in (change.deletes, change.upserts.ids)])
    upserted = np.concatenate(
        [np.repeat([False, True], [len(change.deletes), len(change.upserts.ids)]) for change in changes]
    )
    touched, backwards = np.unique(ids[::-1], return_index=True)
    last = np.zeros(len(ids), bool)
    last[len(ids) - 1 - backwards] = True
    kept = last[upserted]
    embeddings = np.concatenate([change.upserts.embeddings for change in changes])
    attributes = list(chain.from_iterable(change.upserts.attributes for change in changes))
    upserts = Batch(
        ids=ids[last & upserted],
        embeddings=embeddings[kept],
        attributes=[attributes[row] for row in np.flatnonzero(kept)],
    )
    return upserts, np.setdiff1d(touched, upserts.ids, assume_unique=True)
