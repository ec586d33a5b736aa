"""As of when each client of an export of several files is stated."""

import random

import numpy as np
import pytest

from sync_job.consent.dates import NEVER, Ages


@pytest.mark.parametrize("files", [1, 2, 5, 300])
@pytest.mark.parametrize("seed", range(5))
def test_a_client_is_as_old_as_the_oldest_of_its_files(seed: int, files: int) -> None:
    """Whatever order files and ids come in, and with more times than a byte can number."""
    rng = random.Random(seed)
    ages, expected = Ages(), dict[int, float]()
    for _ in range(files):
        made, lowest = float(rng.randrange(1000)), rng.randrange(1, 5000)
        ids = [rng.randrange(lowest, lowest + 200) for _ in range(30)]
        ages.add(np.array(ids, np.int32), made, 30)
        expected |= {client: min(made, expected.get(client, made)) for client in ids}
    found = ages.of(np.arange(6000, dtype=np.int32)).tolist()
    assert found == [expected.get(client, NEVER) for client in range(6000)]
    assert ages.until(500.0).of(np.array([*expected], np.int32)).max() <= 500
