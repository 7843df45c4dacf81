"""Jobs are all done, by as many processes as are asked for."""

import os

import pytest

from onnuri.data.pool import run_jobs


def test_one_worker_is_this_process():
    done = []
    run_jobs(done.append, [3, 1, 2], 1, "jobs")  # no other process could append to it
    assert done == [3, 1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_and_what_fails_is_raised(tmp_path, workers):
    folders = [tmp_path / str(k) for k in range(5)]
    run_jobs(os.mkdir, folders, workers, "folders")
    run_jobs(os.mkdir, [], workers, "nothing")
    assert all(folder.is_dir() for folder in folders)
    with pytest.raises(FileExistsError):
        run_jobs(os.mkdir, [tmp_path / "5", folders[0]], workers, "folders")
