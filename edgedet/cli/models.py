"""`edgedet models`: what is supported, and how that is known."""

from __future__ import annotations

from dataclasses import asdict

import typer

from edgedet import console, support


def command(
    json: bool = typer.Option(False, "--json", help="Print JSON."),
    markdown: bool = typer.Option(False, "--markdown", help="Print the table as docs/support.md shows it."),
) -> None:
    """Show the support table: every model on every runtime in every precision.

    A cell says *verified* with its figure against PyTorch, *compiled*, *not yet run*, or *refused* and why.

    Example: `edgedet models`
    """
    cells = support.read()
    if json:
        console.print_json([asdict(cell) for cell in cells])
    elif markdown:
        print(support.markdown(cells), end="")
    else:
        headings, rows = support.table(cells)
        console.print_table(headings, rows)
        for evidence in dict.fromkeys(cell.evidence for cell in cells if cell.evidence):
            console.say(evidence)
