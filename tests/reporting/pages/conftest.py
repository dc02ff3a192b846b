import shutil

import pytest

from clipret import ReportConfig, report


@pytest.fixture(scope="session")
def reported(searchable, tmp_path_factory):
    """The run, the page and what report returned."""
    folder = tmp_path_factory.mktemp("reported")
    run = shutil.copytree(searchable.run, folder / "run")
    result = report(ReportConfig(runs=(run,), out=folder / "report.html"))
    return run, (folder / "report.html").read_text(encoding="utf-8"), result
