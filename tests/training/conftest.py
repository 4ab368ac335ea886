"""Synthetic faces for the trainer's tests."""

import pytest

from netkit.data import synthetic


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """Return a folder of faces, 3 images each of 4 people and 60 pairs, which is read only."""
    folder = str(tmp_path_factory.mktemp('synthetic faces'))
    synthetic.write_synthetic(folder, identities=4, images=3, pairs=60, seed=1)
    return folder
