"""A bundle is what its manifest says, or it is refused with the name of the file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fraudkit.bundle import MANIFEST, SCORER, Bundle, Origin, load, seal, version_of
from fraudkit.errors import BundleError

FILES = (
    MANIFEST,
    SCORER,
    "holdout.parquet",
    "model.skops",
    "metrics.json",
    "card.md",
    "reference/rows.parquet",
)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    return Path(shutil.copytree(bundle.path, tmp_path / "bundles" / bundle.version))


@pytest.fixture
def draft(bundle: Bundle, tmp_path: Path) -> Path:
    """What the bundle was sealed from."""
    folder = Path(shutil.copytree(bundle.path, tmp_path / "draft"))
    (folder / MANIFEST).unlink()
    return folder


def origin(bundle: Bundle, **changes: object) -> Origin:
    return Origin(**(bundle.manifest.model_dump(include=set(Origin.model_fields)) | changes))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> None:
    """Change the manifest; `sign` makes its own hash fit, as someone who means it would."""
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    if sign:
        document["sha256"] = "0" * 64
        document["sha256"] = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(document))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_a_sealed_bundle_is_read_as_it_was_sealed(bundle: Bundle, copy: Path) -> None:
    again = load(copy)
    assert (again.version, again.scorer, again.manifest) == (bundle.version, bundle.scorer, bundle.manifest)
    assert {MANIFEST, *again.manifest.files} == set(FILES)
    assert copy.name == again.version


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_in_any_file_is_refused_by_the_name_of_the_file(copy: Path, name: str) -> None:
    original = (copy / name).read_bytes()
    for i in range(0, len(original), max(1, len(original) // 60)):
        damaged = bytearray(original)
        damaged[i] ^= 1 << i % 8
        (copy / name).write_bytes(damaged)
        with pytest.raises(BundleError, match=name):
            load(copy)
    (copy / name).write_bytes(original)
    load(copy)


def test_a_byte_added_to_the_end_of_the_manifest_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes() + b"\n")
    with pytest.raises(BundleError, match=f"{MANIFEST} was changed"):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_its_name(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_an_emptied_file_is_refused_by_its_name(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")
    with pytest.raises(BundleError, match=name):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_symlink_in_place_of_a_file_is_refused_by_its_name(copy: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (copy / name).rename(elsewhere)
    (copy / name).symlink_to(elsewhere)
    with pytest.raises(BundleError, match=f"{name} is neither a file nor a folder"):
        load(copy)


def test_a_folder_behind_a_symlink_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "reference").rename(tmp_path / "elsewhere")
    (copy / "reference").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="reference is neither a file nor a folder"):
        load(copy)


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "reference/more.npy", "new/file", "dangling"])
def test_an_extra_file_is_refused_by_its_name(copy: Path, name: str) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    if name == "dangling":
        (copy / name).symlink_to("nowhere")
    else:
        (copy / name).write_bytes(b"")
    with pytest.raises(BundleError, match=name):
        load(copy)


def test_a_pipe_is_refused_without_waiting_for_it(copy: Path) -> None:
    (copy / "card.md").unlink()
    os.mkfifo(copy / "card.md")
    with pytest.raises(BundleError, match=r"card\.md is neither a file nor a folder"):
        load(copy)


def test_a_file_turned_into_a_folder_is_refused(copy: Path) -> None:
    (copy / "card.md").unlink()
    (copy / "card.md").mkdir()
    with pytest.raises(BundleError, match=r"card\.md is missing"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(run="another"), "was changed"),
        (lambda m: m.update(parent="0" * 12), "was changed"),
        (lambda m: m["files"].pop("card.md"), "was changed"),
        (lambda m: m.update(sha256="0" * 64), "was changed"),
        (lambda m: m.update(sha256=""), "was changed"),
        (lambda m: m.pop("sha256"), "was changed"),
        (lambda m: m.pop("files"), "cannot be read: Field required"),
        (lambda m: m.update(format=2), "cannot be read: Input should be 1"),
        (lambda m: m.update(more=1), "cannot be read: Extra inputs are not permitted"),
    ],
    ids=["run", "parent", "unlisted", "zeros", "empty hash", "no hash", "no files", "format", "unknown key"],
)
def test_an_edited_manifest_is_refused(copy: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    edit_manifest(copy, change)
    with pytest.raises(BundleError, match=f"{MANIFEST} {said}"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(version="0" * 12), "names another version"),
        (lambda m: m["files"].pop("card.md"), r"card\.md is not in the manifest"),
        (lambda m: m["files"].update({"card.md": "0" * 63 + "1"}), r"card\.md is not what the manifest says"),
        (lambda m: m["files"].update({"more.md": "0" * 63 + "1"}), r"more\.md is missing"),
        (lambda m: m["files"].update({"../card.md": m["files"]["card.md"]}), r"\.\./card\.md is missing"),
    ],
    ids=["version", "unlisted", "hash", "more", "outside"],
)
def test_a_manifest_that_fits_itself_and_not_the_files_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit_manifest(copy, change, sign=True)
    with pytest.raises(BundleError, match=said):
        load(copy)


def test_a_manifest_signed_anew_without_changes_is_read(copy: Path, bundle: Bundle) -> None:
    edit_manifest(copy, lambda m: m.update(run="another"), sign=True)
    assert load(copy).version == bundle.version


def test_a_scorer_swapped_together_with_its_hash_is_refused_for_its_version(copy: Path) -> None:
    (copy / SCORER).write_bytes((copy / SCORER).read_bytes().replace(b"0.05", b"0.04"))
    swapped = hashlib.sha256((copy / SCORER).read_bytes()).hexdigest()
    edit_manifest(copy, lambda m: m["files"].update({SCORER: swapped}), sign=True)
    with pytest.raises(BundleError, match="names another version"):
        load(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle .*; MLflow keeps a copy"):
        load(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"is not a model bundle: manifest\.json"):
        load(tmp_path)


def test_the_version_names_scorer_and_reference_and_nothing_else(draft: Path, bundle: Bundle) -> None:
    assert version_of(draft) == bundle.version
    (draft / "card.md").write_text("another card")
    (draft / "metrics.json").write_text("{}")
    assert version_of(draft) == bundle.version
    (draft / "reference/rows.parquet").rename(draft / "reference/other.parquet")
    assert version_of(draft) != bundle.version


def test_the_same_content_sealed_again_is_the_bundle_that_is_there(
    draft: Path, tmp_path: Path, bundle: Bundle
) -> None:
    first = seal(draft, tmp_path / "bundles", origin(bundle, run="first"))
    again = seal(draft, tmp_path / "bundles", origin(bundle, run="again"))
    assert again.manifest.run == "first"
    assert again.path == first.path == tmp_path / "bundles" / bundle.version


def test_sealing_over_a_damaged_bundle_is_refused(draft: Path, tmp_path: Path, bundle: Bundle) -> None:
    sealed = seal(draft, tmp_path / "bundles", origin(bundle))
    (sealed.path / "card.md").write_text("another card")
    with pytest.raises(BundleError, match=r"card\.md"):
        seal(draft, tmp_path / "bundles", origin(bundle))


@pytest.mark.parametrize("name", [name for name in FILES if name not in {MANIFEST, "reference/rows.parquet"}])
def test_a_draft_that_lacks_a_file_is_refused_and_nothing_is_written(
    draft: Path, tmp_path: Path, bundle: Bundle, name: str
) -> None:
    (draft / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        seal(draft, tmp_path / "bundles", origin(bundle))
    assert not (tmp_path / "bundles").exists()


def test_a_draft_with_a_symlink_is_refused_and_nothing_is_written(
    draft: Path, tmp_path: Path, bundle: Bundle
) -> None:
    (draft / "more.md").symlink_to("card.md")
    with pytest.raises(BundleError, match=r"more\.md"):
        seal(draft, tmp_path / "bundles", origin(bundle))
    assert not (tmp_path / "bundles").exists()


def test_sealing_leaves_nothing_but_the_bundle_and_the_draft_as_it_was(
    draft: Path, tmp_path: Path, bundle: Bundle
) -> None:
    before = contents(draft)
    sealed = seal(draft, tmp_path / "bundles", origin(bundle))
    assert contents(draft) == before
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [sealed.version]
    assert {name: content for name, content in contents(sealed.path).items() if name != MANIFEST} == before


def test_a_child_can_be_sealed_from_the_files_of_its_parent(tmp_path: Path, bundle: Bundle) -> None:
    draft = Path(shutil.copytree(bundle.path, tmp_path / "child"))
    (draft / SCORER).write_bytes((draft / SCORER).read_bytes().replace(b"0.05", b"0.04"))
    child = seal(draft, tmp_path / "bundles", origin(bundle, parent=bundle.version, created=datetime.now(UTC)))
    assert child.version != bundle.version
    assert child.manifest.parent == bundle.version
    assert child.scorer.thresholds.review == 0.04
