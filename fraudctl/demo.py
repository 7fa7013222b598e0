"""The demo: from transactions to held-out transactions scored over the protocol, with reasons."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.markup import escape

from fraudctl import show
from fraudctl.progress import StepProgress
from fraudctl.records import DemoRecord, ScoredRecord, VersionRecord, train_record
from fraudctl.runs import find_bundle, train_here
from fraudctl.server import require_free, serving
from fraudkit.bundle import Bundle
from fraudkit.errors import InvalidInput, PermanentError
from fraudkit.schema import FloatArray
from fraudkit.settings import MODEL_NAME, Settings
from pipelines.data.holdout import read_blocks
from pipelines.local import Finished

SCORED_ROWS = 1_000
SHOWN_OF_CLASS = 4
REASONS = 3


@dataclass(slots=True)
class Client:
    """Counts what it asks of the predictor."""

    http: httpx.Client
    sent: int = 0
    failed: int = 0

    def post(self, path: str, body: dict[str, object]) -> Any:
        """The JSON answer to `body`.

        Raises:
            PermanentError: The predictor refused what must be a good request.
        """
        self.sent += 1
        answer = self.http.post(path, json=body)
        if not answer.is_success:
            self.failed += 1
            raise PermanentError(f"{path} answered {answer.status_code}: {answer.text[:500]}")
        return answer.json()


def tell(
    data: str | None,
    settings: Settings,
    port: int,
    out: Console,
    errors: Console,
    *,
    leave: bool,
    record: Path | None,
) -> None:
    """Tell the story; stay and serve unless `leave`; write the record to a file if asked for.

    Raises:
        PermanentError: There is no model to serve, because the gate passed none.
    """
    began = time.monotonic()
    require_free(port)
    if record and not record.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {record.absolute().parent} to write {record.name} to")
    finished = train_here(data, settings, errors)
    show.training(finished, out)
    verdict = finished.evaluation.verdict
    if not verdict.passed and verdict.facts.champion is None:
        raise PermanentError(f"the gate passed no model yet: {verdict.message}")
    served = find_bundle(None, settings)
    with ExitStack() as stack:
        with StepProgress(errors) as progress:
            progress("serve", 0, None)
            url = stack.enter_context(serving(served.path, port))
            client = Client(stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False)))
            rows, labels = _held_out(settings, finished.evaluation.prepared.data)
            progress("score", 0, len(rows))
            scored = _score(client, rows, labels)
            progress("score", len(rows), len(rows))
        out.print(f"\n[bold]{len(rows):,} held-out transactions[/] scored over V1 and V2, which agree:\n")
        show.transactions([_line(row) for row in scored], out)
        if record:
            document = DemoRecord(
                seconds=round(time.monotonic() - began, 1),
                versions=[VersionRecord(version=served.version, story=_story(finished, served))],
                requests={"sent": client.sent, "failed": client.failed},
                train=train_record(finished),
                scored=scored,
            )
            record.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _what_next(url, rows[labels == 1][:1], finished, out, leave=leave)
        if not leave:
            _stay(out)


def _held_out(settings: Settings, data: str) -> tuple[FloatArray, FloatArray]:
    """Frauds and legitimate rows of the frozen holdout, `SCORED_ROWS` at most."""
    block = next(read_blocks(settings.bundle_folder / "holdouts" / data))
    frauds = np.flatnonzero(block.labels == 1)[: SCORED_ROWS // 2]
    legitimate = np.flatnonzero(block.labels == 0)[: SCORED_ROWS - len(frauds)]
    chosen = np.concatenate([frauds, legitimate])
    return block.rows[chosen], block.labels[chosen]


def _score(client: Client, rows: FloatArray, labels: FloatArray) -> list[ScoredRecord]:
    """Score over V1 and V2, hold one against the other, and explain some of each class."""
    instances = rows.tolist()
    first = client.post(f"/v1/models/{MODEL_NAME}:predict", {"instances": instances})
    tensor = {
        "name": "rows",
        "shape": [len(rows), rows.shape[1]],
        "datatype": "FP64",
        "data": rows.ravel().tolist(),
    }
    second = client.post(f"/v2/models/{MODEL_NAME}/infer", {"inputs": [tensor]})
    outputs = {output["name"]: output["data"] for output in second["outputs"]}
    one = np.array([prediction["probability"] for prediction in first["predictions"]])
    difference = float(np.abs(one - np.array(outputs["probability"])).max())
    if difference > 1e-12:
        raise PermanentError(f"V1 and V2 differ by {difference:.1e} in probability")
    shown = _spread(one, labels)
    explained = client.post(f"/v1/models/{MODEL_NAME}:explain", {"instances": [instances[i] for i in shown]})
    return [
        ScoredRecord(holdout_row=int(i), truth=int(labels[i]), **prediction)
        for i, prediction in zip(shown, explained["predictions"], strict=True)
    ]


def _spread(probabilities: FloatArray, labels: FloatArray) -> list[int]:
    """A few rows of each class, from the least suspicious to the most."""
    shown: list[int] = []
    for label in (1, 0):
        members = np.flatnonzero(labels == label)
        ranked = members[np.argsort(probabilities[members], kind="stable")[::-1]]
        places = np.linspace(0, len(ranked) - 1, min(SHOWN_OF_CLASS, len(ranked))).round().astype(int)
        shown += ranked[places].tolist()
    return shown


def _line(row: ScoredRecord) -> Sequence[str]:
    why = ", ".join(f"{reason.feature} {reason.contribution:+.1f}" for reason in row.reasons[:REASONS])
    truth = "fraud" if row.truth else "legitimate"
    return f"holdout {row.holdout_row}", truth, f"{row.probability:.4f}", row.alert, why


def _story(finished: Finished, served: Bundle) -> str:
    verdict = finished.evaluation.verdict
    if finished.conclusion.version == served.version:
        return f"trained by {served.manifest.run}; {verdict.reason}: {verdict.message}"
    return f"trained by {served.manifest.run}; still champion, the new candidate ended {verdict.reason}"


def _what_next(url: str, row: FloatArray, finished: Finished, out: Console, *, leave: bool) -> None:
    body = json.dumps({"instances": np.round(row, 4).tolist()})
    out.print("\n[bold]Try next[/]" + ("" if not leave else " (after `make demo` without --exit)"))
    for line in (
        f"curl -s {url}/v1/models/{MODEL_NAME}:explain -d '{body}'",
        f"curl -s {url}/v2/models/{MODEL_NAME}",
        "fraudctl data fetch   # 284,807 real transactions; then: fraudctl train --data FILE",
    ):
        out.print(escape(line), highlight=False, soft_wrap=True)
    out.print(f"Report: {finished.conclusion.report}", highlight=False, soft_wrap=True)


def _stay(out: Console) -> None:
    out.print("\nServing until Ctrl-C.")
    while True:
        time.sleep(3_600)
