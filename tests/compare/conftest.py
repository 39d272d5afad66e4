"""Simulated models, and their report."""

import logging

import pytest
from simulated_comparison import simulated_endpoint, simulated_results, simulated_samples

from visionward.compare.models import GuardFiles
from visionward.compare.report import make_report
from visionward.compare.report_files import write_report

NOISES = {"f16": (0.0, 16 * 10**6), "q8_0": (0.02, 8 * 10**6), "q4_0": (3.0, 4 * 10**6)}


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    dataset = simulated_samples(240, folder, group_size=1)
    return dataset, [*simulated_results(folder, dataset, NOISES), simulated_endpoint(dataset)]


@pytest.fixture(scope="session")
def written(simulated, tmp_path_factory):
    dataset, results = simulated
    folder = tmp_path_factory.mktemp("report")
    report = make_report([dataset], results, threshold=0.5, margin=0.05, show_quoted=True)
    write_report(folder, report, [dataset], results)
    return folder, report


@pytest.fixture(autouse=True)
def _notes():
    logger = logging.getLogger("visionward.compare")
    before = list(logger.handlers)
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)
    logger.handlers[:] = before


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path in paths:
        path.write_bytes(b"GGUF" * 10)
    return GuardFiles("model", *paths)
