from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraudkit.schema import INPUTS, FloatArray
from pipelines.data.leakage import separation
from pipelines.data.profile import QUANTILES, quantiles, write_profile
from pipelines.data.rowhash import content_hash
from pipelines.data.scan import SAMPLE_PER_CLASS, Scan
from pipelines.data.sources import COLUMNS, Block

BLOCK = 500
VOID = {"meta", "br", "img", "link"}


class Page(HTMLParser):
    """The text of headings, cells and captions, all attributes, and whether the tags nest."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def cells(self, name: str) -> list[str]:
        (row,) = (row for row in self.rows if row[0] == name)
        return row


def transactions(rows: int, frauds: int, seed: int = 0) -> FloatArray:
    """Columns [31, rows] with `frauds` frauds somewhere among them."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(len(COLUMNS), rows))
    columns[-1] = rng.permutation(np.arange(rows) < frauds)
    columns[1:29] += 2.0 * columns[-1] * np.linspace(-1, 1, 28)[:, None]
    columns[0] = np.sort(rng.integers(0, 172_800, rows))
    columns[-2] = np.round(rng.lognormal(3, 1.5, rows), 2)
    return columns


def scan_of(columns: FloatArray, starts: Iterable[int] | None = None) -> Scan:
    """A scan of the blocks that begin at `starts`, counted from 0; by default of all."""
    scan = Scan(seed=0)
    for start in range(0, columns.shape[1], BLOCK) if starts is None else starts:
        part = np.ascontiguousarray(columns[:, start : start + BLOCK])
        scan.add(Block(part, start + 1), content_hash(part))
    return scan


def profile(scan: Scan, path: Path, uri: str = "transactions.csv") -> str:
    write_profile(scan, uri, path / "profile.html")
    return (path / "profile.html").read_text(encoding="utf-8")


def value(cell: str) -> float:
    return float(cell.replace(",", "").replace("−", "-"))


def test_the_numbers_of_the_table_are_those_of_pandas(tmp_path: Path) -> None:
    columns = transactions(2_200, 300)
    frame = pd.DataFrame(columns.T, columns=list(COLUMNS))
    expected = frame.describe(percentiles=list(QUANTILES)).T
    by_class = frame.groupby("Class").mean()
    auc = separation(columns[:-1, columns[-1] == 0], columns[:-1, columns[-1] == 1])
    page = Page(profile(scan_of(columns), tmp_path))
    for name in COLUMNS:
        wanted = expected.loc[name].tolist()
        if name in INPUTS:
            wanted += [by_class.loc[0, name], by_class.loc[1, name]]
        found = [value(cell) for cell in page.cells(name)[2 : 2 + len(wanted)]]
        assert found == pytest.approx(wanted, rel=6e-4, abs=1e-4), name
    assert [value(page.cells(name)[-1]) for name in INPUTS] == pytest.approx(list(auc.values()), abs=6e-4)


def test_every_input_has_a_row_with_its_count_in_the_order_of_the_schema(tmp_path: Path) -> None:
    page = Page(profile(scan_of(transactions(1_234, 50)), tmp_path))
    assert [row[0] for row in page.rows[1:]] == list(COLUMNS)
    assert {row[2] for row in page.rows[1:]} == {"1,234"}
    assert {len(row) for row in page.rows} == {15}


def test_every_input_has_a_chart_of_both_classes(tmp_path: Path) -> None:
    page = Page(profile(scan_of(transactions(1_000, 50)), tmp_path))
    labels = [text for tag, name, text in page.attributes if tag == "svg" and name == "aria-label"]
    assert [f"Distribution of {name} by class" for name in INPUTS] == labels[-30:]
    shapes = [text for tag, name, text in page.attributes if tag == "path" and name == "class"]
    assert shapes.count("area legit") == shapes.count("area fraud") == len(INPUTS)


def test_the_headline_counts_rows_frauds_and_repeated_rows(tmp_path: Path) -> None:
    columns = transactions(1_000, 50)
    scan = scan_of(np.hstack([columns, columns[:, :7]]))
    page = Page(profile(scan, tmp_path))
    frauds = scan.counts[1]
    assert page.texts["dd"] == ["1,007", f"{frauds} ({100 * frauds / 1007:.3g} %)", "7", "0.2497 MB"]
    assert page.texts["code"] == [scan.identity()]


def test_quantiles_from_samples_stand_for_all_rows(tmp_path: Path) -> None:
    columns = transactions(3 * SAMPLE_PER_CLASS, 6_000)
    columns[1:29] += 3 * columns[-1]  # unweighted samples would put a fraud in every fourth row
    scan = scan_of(columns)
    found = quantiles([sample.result()[1].T for sample in scan.samples], scan.counts)
    ranks = (columns[1:29, :, None] <= found[1:29, None, :]).mean(axis=1)
    assert ranks == pytest.approx(np.broadcast_to(QUANTILES, ranks.shape), abs=0.012)
    assert f"a sample of 20,000 legitimate rows and {scan.counts[1]:,} frauds" in profile(scan, tmp_path)


def test_the_same_rows_give_the_same_bytes_however_they_were_sharded(tmp_path: Path) -> None:
    columns = transactions(SAMPLE_PER_CLASS + 5_300, 800)
    starts = range(0, columns.shape[1], BLOCK)
    whole = profile(scan_of(columns), tmp_path)
    for first, second in ((starts[::2], starts[1::2]), (starts[1::2], starts[::2])):
        merged = scan_of(columns, first)
        merged.merge(scan_of(columns, second))
        assert profile(merged, tmp_path) == whole
    assert profile(scan_of(columns), tmp_path) == whole


def test_the_page_needs_nothing_outside_itself_and_runs_nothing(tmp_path: Path) -> None:
    markup = profile(scan_of(transactions(1_000, 50)), tmp_path)
    page = Page(markup)
    assert not {name for _, name, _ in page.attributes} & {"src", "href", "srcset", "xlink:href", "onload", "data"}
    assert not {"script", "link", "iframe", "object"} & page.texts.keys()
    assert not any(word in markup for word in ("http:", "https:", "url(", "@import", "//"))
    assert len(markup) < 400_000


def test_a_reader_of_the_screen_finds_headings_captions_and_alternatives(tmp_path: Path) -> None:
    page = Page(profile(scan_of(transactions(1_000, 50)), tmp_path))
    assert page.texts["h1"] == page.texts["title"] == ["Profile of transactions.csv"]
    assert page.texts["h2"] == ["Classes", "Time", "Inputs by class", "Columns"]
    assert all(page.texts["caption"])
    assert ("html", "lang", "en") in page.attributes
    scopes = [text for tag, name, text in page.attributes if tag == "th" and name == "scope"]
    assert scopes == ["col"] * 15 + ["row"] * 31
    roles = [text for tag, name, text in page.attributes if tag == "svg" and name == "role"]
    labels = [text for tag, name, text in page.attributes if tag == "svg" and name == "aria-label" and text]
    assert len(roles) == len(labels) == len(page.texts["svg"]) == 31


def test_the_name_of_the_data_is_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    uri = "s3://bucket/<script>alert('x')</script>&\"a\".csv"
    markup = profile(scan_of(transactions(600, 50)), tmp_path, uri)
    assert Page(markup).texts["h1"] == [f"Profile of {uri}"]
    assert "<script" not in markup


def test_data_without_time_or_with_constant_inputs_can_be_profiled(tmp_path: Path) -> None:
    columns = transactions(1_000, 50)
    columns[0], columns[5], columns[-2] = 0.0, 1e12, 0.0
    page = Page(profile(scan_of(columns), tmp_path))
    assert any("Time is 0 s in every row" in text for text in page.texts["figcaption"])
    assert page.cells("V5")[3:5] == ["1,000,000,000,000", "0"]
    assert page.cells("Time")[-1] == "0.500"


def test_one_fraud_and_one_legitimate_row_can_be_profiled(tmp_path: Path) -> None:
    page = Page(profile(scan_of(transactions(2, 1)), tmp_path))
    assert page.cells("Class")[2:5] == ["2", "0.5000", "0.7071"]
