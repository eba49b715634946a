"""Command `collect`, and the printing of its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from graft.cli.format import format_counts
from graft.cli.options import AsJson, Quiet, choose_progress, print_result, report_errors, show_loading
from graft_runtime.terminal import say


def print_collected(report: Mapping[str, Any]) -> None:
    """Print the summary of `graft collect`."""
    classes = report["classes"]
    say(f"{report['images']:,} images of {len(classes)} classes in {report['folder']}\n")
    if classes:
        say(f"  classes      {format_counts(classes)}")
    if report["duplicates"]:
        say(f"  duplicates   {report['duplicates']:,} more of the same content and label, kept once")
    if report["conflicts"]:
        say(f"  conflicts    {len(report['conflicts']):,} of the same content and another label: the first is kept")
    if refused := report["refused"]:
        say(f"  refused      {sum(refused.values()):,}: {format_counts(refused)}")
    if failed := report["failed"]:
        say(f"  failed       {sum(failed.values()):,}, asked for again by the same command: {format_counts(failed)}")
    if report["waiting"]:
        say(f"  waiting      {report['waiting']:,} not fetched yet: the same command goes on")
    say(f"  each URL in  {report['manifest']}")
    if len(classes) > 1:
        folder = quote(report["folder"])
        say(f"\nNext:  graft check {folder}\n       graft fit {folder} -o model/")


def collect(
    urls: Annotated[Path, typer.Argument(help="Table (CSV, TSV) with columns url and label, or a .txt of URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the class folders and manifest.csv.")],
    label: Annotated[str, typer.Option(help="What all images show, for a list without labels.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Fetch so many URLs now. [default: all]")] = None,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest file, in megabytes.")] = 20,
    timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds for one file.")] = 60,
    time_limit: Annotated[float, typer.Option(min=0, help="Most minutes for this run.")] = 24 * 60,
    rate: Annotated[float, typer.Option(min=0.001, help="Most requests a second to one host.")] = 5,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also from private and local addresses: your own servers.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again for what was refused for good.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch labelled images from a list of URLs into class folders; the same command goes on where it was stopped."""
    with report_errors("collect"):
        with show_loading():
            from graft.jobs.collect.collect import collect as job
            from graft.jobs.collect.fetch import FetchLimits

        limits = FetchLimits(
            max_urls=limit,
            time_limit=time_limit * 60,
            max_bytes=int(max_mb * 1e6),
            request_timeout=timeout,
            rate=rate,
            allow_private=allow_private,
        )
        report = job(urls, output, label=label, limits=limits, retry=retry, watch=choose_progress(quiet)).summary()
        print_result(report, as_json, print_collected)
        if not report["images"]:
            raise typer.Exit(3)
