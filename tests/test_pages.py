"""Each run leaves a page beside its report, also one that died; and nothing fails because a page cannot be made."""

import json
import shutil
import stat
import webbrowser
from functools import partial
from pathlib import Path

import pytest

import sync_job
from sync_job.config import Settings
from sync_job.errors import StorageError
from sync_job.ledger import files
from sync_job.runs import decide, night, pages
from sync_job.runs.decide import Wish
from sync_job.runs.watch import Watch
from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests.commands import Cli
from tests.shop import Shop, people


@pytest.fixture(autouse=True)
def _with_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENT_SYNC__REPORT__PAGE", "true")


def _pages(settings: Settings) -> list[str]:
    return sorted(path.parent.name[:4] for path in settings.report.path.glob("*/report.html"))


def test_each_report_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this user alone, in the language that is asked for; what lacks one gets it from the next run."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        assert _pages(shop.settings) == ["0001"]
        monkeypatch.setenv("CONSENT_SYNC__REPORT__PAGE", "false")
        first = sync_job.run(shop.settings)
        assert first.summary["page"] is None
        assert _pages(shop.settings) == ["0001"]
        monkeypatch.setenv("CONSENT_SYNC__REPORT__PAGE", "true")
        monkeypatch.setenv("CONSENT_SYNC__REPORT__LANGUAGE", "ru")
        second = sync_job.run(shop.settings)
    assert _pages(shop.settings) == ["0001", "0002", "0003"]
    page = Path(second.summary["page"])
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert '<html lang="ru"' in page.read_text("utf-8")
    assert str(shop.config) in page.read_text("utf-8") or not second.exit_code


def test_a_page_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is there; the next run makes the page."""
    replace = files.replace

    def full(path: Path, write: object) -> None:
        if path.name == "report.html":
            raise StorageError(f"{path}: no room.")
        replace(path, write)  # type: ignore[arg-type]

    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        with monkeypatch.context() as patch:
            patch.setattr(files, "replace", full)
            report = sync_job.run(shop.settings)
        assert report.exit_code == 0
        assert _pages(shop.settings) == ["0001"]
        sync_job.run(shop.settings)
    assert _pages(shop.settings) == ["0001", "0002", "0003"]


@pytest.mark.parametrize("damage", [b"", b'{"run": "x', b"[1]", b'{"run": "0001-x"}'])
def test_a_damaged_report_ends_no_run(tmp_path: Path, damage: bytes) -> None:
    """Nor does one that lacks what a page shows: each is passed over, and the run's own page is made."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        (summary,) = shop.settings.report.path.glob("0001-*/summary.json")
        summary.write_bytes(damage)
        (summary.parent / "report.html").unlink()
        assert sync_job.run(shop.settings).exit_code == 0
    assert _pages(shop.settings) == ["0002"]


def test_after_a_new_beginning_each_run_has_its_page(tmp_path: Path) -> None:
    """Also where the reports of the state before are kept, whose numbers are higher."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        for number in range(7):
            shutil.copytree(
                next(shop.settings.report.path.glob("0001-*")), shop.settings.report.path / f"001{number}-x"
            )
        assert Path(sync_job.run(shop.settings).summary["page"]).exists()


def test_an_address_shows_no_signature(tmp_path: Path) -> None:
    """The summary has the settings, and whoever reads it could else fetch the export."""
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        signed = "https://files.example/export.csv?X-Signature=geheim"
        settings = shop.settings.model_copy(
            update={"export": shop.settings.export.model_copy(update={"id_map": None, "path": signed})}
        )
        read = partial(decide.read, shop.settings, Watch(), wish=Wish(), first_look=False)
        report = night.run(settings, Wish(), Watch(), read=read)
    assert report.summary["settings"]["export"]["path"] == "https://files.example/export.csv?***"
    assert all("geheim" not in path.read_text("utf-8") for path in report.folder.iterdir())


def test_a_run_whose_page_was_not_made_any_more_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page comes after everything else: dead then, or stopped by a bug in it, the run has its report and is over."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        with monkeypatch.context() as patch:
            patch.setattr(pages, "make", dies)
            with pytest.raises(KeyboardInterrupt):
                sync_job.run(shop.settings)
        with shop.state() as state:
            assert state.ledger.unfinished() == []
        assert sync_job.run(shop.settings).summary["planned"] == 0
    assert _pages(shop.settings) == ["0001", "0002", "0003"]


def test_the_command_opens_a_page(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made where there is none; the page over all of them links to each that is there."""
    opened: list[str] = []
    config = ("--config", str(tmp_path / "config.toml"))
    with running(Options()) as platform:
        shop = Shop(tmp_path, platform.url)
        shop.write(people(20))
        shop.init()
        sync_job.run(shop.settings)
    for path in shop.settings.report.path.glob("0002-*/report.html"):
        path.unlink()

    def browse(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", browse)
    code, out, _ = cli("report", "2", "--open", *config)
    assert (code, _pages(shop.settings)) == (0, ["0001", "0002"])
    assert opened == [Path(out.strip()).as_uri()]
    code, out, _ = cli("report", "--index", "--json", *config)
    index = Path(json.loads(out)["page"]).read_text("utf-8")
    for page in shop.settings.report.path.glob("*/report.html"):
        assert f'href="{page.parent.name}/report.html"' in index
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    code, out, said = cli("report", "--open", *config)
    assert code == 2
    assert "report.html" in out
    assert "no browser" in said
    assert cli("report", "2", "--index", *config)[0] == 2
    for path in shop.settings.report.path.glob("0002-*/summary.json"):
        path.unlink()
    code, _, said = cli("report", "2", "--open", *config)
    assert code == 2
    assert "Was it moved" in said
