"""The commands. Each reads its options, calls one part, and shows the result."""

# Heavy parts are imported by the command that needs them: `fraudctl --help` answers at once.
# No `from __future__ import annotations` here: typer reads the annotations as objects.
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fraudkit.settings import Settings, load_settings

app = typer.Typer(
    name="fraudctl",
    help="Trains, serves and watches a card-fraud model, on this machine or for a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Get, make and look at transactions.", no_args_is_help=True)
app.add_typer(data_app, name="data")
drift_app = typer.Typer(help="Ask the detector what it says of live traffic.", no_args_is_help=True)
app.add_typer(drift_app, name="drift")

rollout_app = typer.Typer(help="Look at roll-outs, and take them in hand.", no_args_is_help=True)
app.add_typer(rollout_app, name="rollout")

errors = Console(stderr=True)
out = Console()

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="URI",
        help="CSV, CSV.gz or Parquet: a path, https://, s3:// or abfs://. Synthesized if left out.",
    ),
]


@app.command()
def train(
    data: Data = None,
    per_class: Annotated[int | None, typer.Option(help="Rows per class of the balanced sample.")] = None,
    ratio: Annotated[int | None, typer.Option(help="Legitimate rows per fraud; chosen if left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Keys the sample and the intervals.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Choose the strength of the penalty too.")] = False,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder to copy profile, report and every step's files to.", file_okay=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the pipeline once, here: read, validate, sample, train, evaluate, gate, register.

    Exits 1 when the gate does not pass the model.
    """
    from fraudctl import show
    from fraudctl.records import train_record
    from fraudctl.runs import train_here

    settings = _settings(
        sampling={"per_class": per_class, "ratio": ratio, "seed": seed}, training={"tune": tune or None}
    )
    finished = train_here(data, settings, errors, keep)
    if json:
        typer.echo(train_record(finished).model_dump_json(indent=1))
    else:
        show.training(finished, out)
    raise typer.Exit(0 if finished.evaluation.verdict.passed else 1)


@app.command()
def demo(
    data: Data = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65_535)] = 8080,
    leave: Annotated[bool, typer.Option("--exit", help="End after the story instead of serving on.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the record to FILE.", dir_okay=False)
    ] = None,
) -> None:
    """The whole story: a model is trained and served, the world changes, and the platform renews the model.

    Exits 1 when something did not go as it must.
    """
    from fraudctl.demo import tell

    if not tell(data, _settings(), port, out, errors, leave=leave, record=json):
        raise typer.Exit(1)


@app.command()
def up(
    data: Data = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65_535)] = 8080,
) -> None:
    """The platform on this machine until Ctrl-C: the champion (or a model trained now) served and watched."""
    from fraudctl.up import up as run

    run(data, port, _settings(), out, errors)


@app.command()
def labels(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV, JSON or JSON lines (also .gz), or Parquet, with id and label; also source, by and at.",
            dir_okay=False,
        ),
    ],
    url: Annotated[str | None, typer.Option(help="The detector's address; from the settings if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report outcomes of transactions by their ids. Exits 1 when some could not be read."""
    from fraudctl.labels import report, show_report

    record = report(file, url or _settings().detector.url, errors)
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        show_report(record, out)
    raise typer.Exit(1 if record.rejected else 0)


@app.command()
def model(
    version: Annotated[str | None, typer.Argument(help="Twelve hex digits; the champion if left out.")] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the bundle's folder alone.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Where a model came from: what asked for it, what it learned from, what the gate said, how it was rolled out.

    A part of the platform that is away is said, and the rest is told.
    """
    from fraudctl.model import find, show, story

    if path:
        typer.echo(find(version, _settings()).path)
        return
    told = story(version, _settings())
    if json:
        typer.echo(told.model_dump_json(indent=1))
    else:
        show(told, out)


@app.command("compile")
def compile_(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write; the checked-in file if left out.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(help="Tasks that share the preparation; data.shards if left out.", min=1, max=16),
    ] = None,
) -> None:
    """Compile the Kubeflow pipeline."""
    from fraudkit.errors import InvalidInput
    from pipelines.training import COMPILED, compile_pipeline

    number = _settings(data={"shards": shards}).data.shards
    if number > 1 and output is None:
        raise InvalidInput(f"the checked-in pipeline has one shard, not {number}; name another file with --output")
    path = output or COMPILED
    compile_pipeline(path, number)
    errors.print(f"wrote {path}", highlight=False)


@data_app.command()
def fetch(
    force: Annotated[bool, typer.Option("--force", help="Download again.")] = False,
    server: Annotated[str | None, typer.Option(help="OpenML's address.")] = None,
) -> None:
    """Get the ULB credit-card set (284,807 real transactions) from OpenML, into the user's cache."""
    from fraudctl.progress import download_bar
    from pipelines.data.fetch import OPENML
    from pipelines.data.fetch import fetch as fetch_ulb

    with download_bar(errors, "creditcard") as progress:
        path = fetch_ulb(base=server or OPENML, force=force, progress=progress)
    typer.echo(path)


@data_app.command()
def synthesize(
    output: Annotated[Path, typer.Argument(help="A .csv, .csv.gz or .parquet file.", dir_okay=False)],
    rows: Annotated[int, typer.Option(help="Transactions to make.", min=1)] = 284_807,
    seed: Annotated[int, typer.Option(help="The same seed makes the same file.", min=0)] = 0,
    fraud_rate: Annotated[float | None, typer.Option(help="Share of frauds.")] = None,
    mean: Annotated[float, typer.Option(help="Drift: move the features by so many σ.")] = 0.0,
    variance: Annotated[float, typer.Option(help="Drift: multiply the features' variance.")] = 1.0,
    features: Annotated[str, typer.Option(help="The features that drift, with commas.")] = "V4,V10,V14",
    broken_correlation: Annotated[
        bool, typer.Option("--broken-correlation", help="Drift: same marginals, no dependence.")
    ] = False,
    new_fraud: Annotated[float, typer.Option(help="Drift: share of rows that are a new kind of fraud.")] = 0.0,
) -> None:
    """Make transactions that resemble the ULB set, with drift if asked for."""
    from fraudctl.progress import StepProgress
    from pipelines.data.synthesize import NATURAL_RATE, Shift, write
    from pipelines.data.synthesize import synthesize as make

    shift = Shift(
        mean=mean,
        variance=variance,
        features=tuple(features.split(",")),
        broken_correlation=broken_correlation,
        new_fraud=new_fraud,
    )
    with StepProgress(errors) as progress:
        batches = make(rows, seed, shift=shift, fraud_rate=NATURAL_RATE if fraud_rate is None else fraud_rate)
        write(output, batches, lambda done: progress("synthesize", done, rows))
    typer.echo(output)


@data_app.command()
def profile(
    data: Annotated[str, typer.Argument(metavar="URI", help="The transactions.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.", dir_okay=False)] = Path(
        "profile.html"
    ),
) -> None:
    """Describe transactions on one HTML page: types, statistics, distributions, classes, coverage."""
    from fraudctl.progress import StepProgress
    from pipelines.steps.prepare import profile_alone

    with StepProgress(errors) as progress:
        profile_alone(data, output, lambda done, total: progress("prepare", done, total))
    typer.echo(output)


DetectorUrl = Annotated[
    str | None, typer.Option("--url", help="The detector's address; from the settings if left out.")
]


@drift_app.command("status")
def drift_status(
    url: DetectorUrl = None, json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """What live traffic looks like now: the verdict, and each channel's numbers beside their thresholds.

    Exits 1 when the verdict is drift.
    """
    from fraudctl.drift import fetch_status, show_status

    record = fetch_status(url or _settings().detector.url)
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        show_status(record, out)
    raise typer.Exit(1 if record.status == "drift" else 0)


@drift_app.command("history")
def drift_history(
    url: DetectorUrl = None,
    limit: Annotated[int, typer.Option(help="Windows, events and decisions at most.", min=1, max=1_000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What it has said, what was sent, and what was decided."""
    from fraudctl.drift import fetch_history, show_history

    record = fetch_history(url or _settings().detector.url, limit)
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        show_history(record, out)


@drift_app.command("export")
def drift_export(
    folder: Annotated[Path, typer.Argument(help="A new folder.", file_okay=False)],
    version: Annotated[str | None, typer.Option(help="Twelve hex digits; the champion if left out.")] = None,
) -> None:
    """Write a model's KSDrift in alibi-detect's own format (config.toml and arrays), for use elsewhere."""
    from detectors.engines.alibi import export
    from detectors.reference import Reference
    from fraudctl.runs import find_bundle
    from fraudkit.errors import InvalidInput

    if folder.exists():
        raise InvalidInput(f"{folder} exists")
    export(Reference.of(find_bundle(version, _settings())), folder)
    typer.echo(folder)


LauncherUrl = Annotated[
    str | None, typer.Option("--url", help="The launcher's address; from the settings if left out.")
]


@app.command()
def launch(
    key: Annotated[str, typer.Option(help="Names what is asked for: the same key starts one run.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="URI", help="The base data; the launcher's if left out.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it stays on record.")] = "asked for by hand",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    url: LauncherUrl = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Start a pipeline run, here or on Kubeflow Pipelines, once per key.

    Exits 1 when another run goes on, or when the run that was waited for ended without a new model.
    """
    from fraudctl.launch import follow, show_launch
    from fraudctl.launch import launch as ask
    from pipelines.launcher.triggers import manual_key

    address = (url or _settings().launcher.url).rstrip("/")
    record = ask(address, manual_key(key), data, reason)
    if wait:
        record = follow(address, record, errors)
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        show_launch(record, out)
    good = record.run.outcome in ("promoted", "challenger") if record.run.outcome else record.run.state == "run"
    raise typer.Exit(0 if good else 1)


@app.command()
def runs(
    url: LauncherUrl = None,
    limit: Annotated[int, typer.Option(help="Runs at most.", min=1, max=1_000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """The last runs that were asked for: by whom, why, and what became of them."""
    from json import dumps

    from fraudctl.launch import runs as last
    from fraudctl.launch import show_runs

    records = last((url or _settings().launcher.url).rstrip("/"), limit)
    if json:
        typer.echo(dumps([record.model_dump() for record in records], indent=1))
    else:
        show_runs(records, out)


ControllerUrl = Annotated[
    str | None, typer.Option("--url", help="The controller's address; from the settings if left out.")
]
Named = Annotated[str | None, typer.Option("--id", help="Id or key of the roll-out; the newest if left out.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stays on record with your name.")]


@rollout_app.command("status")
def rollout_status(
    url: ControllerUrl = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """The roll-outs, and what was said at each step of the newest one."""
    from json import dumps

    from fraudctl.rollout import rollouts, show

    records = rollouts(_controller(url))
    if json:
        typer.echo(dumps([record.model_dump() for record in records], indent=1))
    else:
        show(records, out)


@rollout_app.command("pause")
def rollout_pause(reason: Why, name: Named = None, url: ControllerUrl = None) -> None:
    """Leave traffic as it is, and judge nothing."""
    _take_in_hand("pause", name, reason, url)


@rollout_app.command("resume")
def rollout_resume(reason: Why, name: Named = None, url: ControllerUrl = None) -> None:
    """Go on: after a pause, or after another hand changed the traffic."""
    _take_in_hand("resume", name, reason, url)


@rollout_app.command("promote")
def rollout_promote(reason: Why, name: Named = None, url: ControllerUrl = None) -> None:
    """Give the challenger all traffic now; or confirm a promotion that is provisional."""
    _take_in_hand("promote", name, reason, url)


@rollout_app.command("rollback")
def rollout_rollback(reason: Why, name: Named = None, url: ControllerUrl = None) -> None:
    """Give the former champion all traffic."""
    _take_in_hand("rollback", name, reason, url)


def _take_in_hand(action: str, name: str | None, reason: str, url: str | None) -> None:
    from fraudctl.rollout import act, show

    show((act(_controller(url), action, name, reason),), out)


def _controller(url: str | None) -> str:
    settings = _settings().rollout
    return (url or settings.url or f"http://127.0.0.1:{settings.port}").rstrip("/")


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """What is missing here, and how to get it. Exits 1 when something is."""
    from dataclasses import asdict
    from json import dumps

    from fraudctl.doctor import State, examine, show

    findings = examine()
    if json:
        typer.echo(dumps([asdict(finding) for finding in findings], indent=1))
    else:
        show(findings, out)
    raise typer.Exit(1 if any(finding.state is State.MISSING for finding in findings) else 0)


def _settings(**sections: dict[str, object]) -> Settings:
    """The settings of this process with the options that were given."""
    given = {
        section: {name: value for name, value in options.items() if value is not None}
        for section, options in sections.items()
    }
    return load_settings(**{section: options for section, options in given.items() if options})
