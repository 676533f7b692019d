"""Ridge regression. Reference: scikit-learn, with one fit per penalty and sample."""

import numpy as np
from sklearn.linear_model import Ridge as Reference

from vitas_ds.search.ridge import PENALTIES, fit_ridge


def test_ridge_regression_with_the_smallest_leave_one_out_error():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(150, 40)) * (rng.random(40) < 0.8)  # some features are constant
    y = X @ rng.normal(size=X.shape[1]) + rng.normal(0, 2, len(X))
    model = fit_ridge(X, y)
    references = [Reference(alpha=penalty).fit(X, y) for penalty in PENALTIES]
    equal = [i for i, r in enumerate(references) if np.allclose(r.predict(X), model(X), atol=1e-6)]
    assert len(equal) == 1

    def left_out(penalty: float) -> float:
        """Compute the leave-one-out error with one fit per sample."""
        errors = []
        for i in range(len(X)):
            rest = np.arange(len(X)) != i
            errors.append(Reference(alpha=penalty).fit(X[rest], y[rest]).predict(X[[i]])[0] - y[i])
        return float(np.mean(np.square(errors)))

    assert equal[0] == int(np.argmin([left_out(penalty) for penalty in PENALTIES]))
