"""Item factors by alternating least squares on who met what.

Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM 2008);
Takács, Pilászy, Tikk, "Applications of the conjugate gradient method for implicit feedback
collaborative filtering" (RecSys 2011). The work is the library `implicit`'s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning.components import Factors
from batchrec_dagster.local_personalize.learning.threads import cores, single_threaded_blas

DIMENSION = 64
REGULARIZATION = 5.0
ITERATIONS = 12
UPDATE_ITERATIONS = 2


def fit(
    matrix: csr_matrix,
    *,
    dimension: int = DIMENSION,
    seed: int,
    start: npt.NDArray[np.float32] | None = None,
) -> Factors:
    """Factors of the items of a (users, n_items) matrix of ones where a user met an item.

    With (n_items, dimension) factors to `start` from, rows of zeros for what is new, a few
    iterations that solve exactly are enough.
    """
    # Each row is solved by one thread; only BLAS would round differently on more cores.
    with single_threaded_blas():
        model = AlternatingLeastSquares(
            factors=dimension,
            regularization=REGULARIZATION,
            iterations=ITERATIONS if start is None else UPDATE_ITERATIONS,
            use_cg=start is None,
            num_threads=cores(),
            random_state=seed,
        )
        model.item_factors = start
        model.fit(matrix.astype(np.float32), show_progress=False)
    return Factors(np.ascontiguousarray(model.item_factors), REGULARIZATION)
