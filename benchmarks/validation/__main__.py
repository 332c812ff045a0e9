"""Write the validation report: reference tables, properties, photon-by-photon counts, experiments, speed, precision.

    python -m benchmarks.validation                    writes docs/validation.md and docs/validation/*.png
    python -m benchmarks.validation --quick --out report

Everything in the report is computed by the run that writes it. Photons are drawn from `--seed`; the choice of seed is
not looked for. Exit status: 0 all is as it should be, 1 a table or a property fails, or more counts are outside their
99 % interval than chance allows at 1e-3, or one is outside twice, or the search finds something.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of validation.md (default: docs)")
    parser.add_argument("--seed", type=int, default=0, help="of the photons (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the photons, no speeds, no search")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    import jax
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.validation import agreement, experiments, fuzz, pictures, precision, properties
    from benchmarks.validation import report as pages
    from benchmarks.validation.table import read

    points = list(agreement.points())
    tables = sorted(precision.TABLES.glob("*.csv"))
    folder = args.out / "validation"
    console = Console(stderr=True)
    with Progress(console=console) as progress, jax.enable_x64(True):
        bar = progress.add_task("reference tables", total=len(tables) + len(points) + 8)

        def step(what: str) -> None:
            progress.update(bar, advance=1, description=what)

        def recomputed() -> Iterator[pages.Recomputed]:
            for path in tables:
                yield pages.recompute(read(path))
                step(f"reference tables: {path.stem}")

        golden = list(recomputed())
        found = properties.properties()
        crossings = properties.beyond_plob()
        step("properties")
        share = 0.01 if args.quick else 1.0
        counted = agreement.compare_all(points, args.seed, share, lambda point: step(f"photons: {point.name}"))
        for group in ("decoy", "twin field"):
            name = f"photons_{group.replace(' ', '_')}.png"
            pictures.agreement([c for g, c in counted if g == group], folder / name)
        step("experiments")
        anchors = experiments.anchors()
        step("pictures")
        pictures.bb84(folder / "bb84.png")
        step("pictures")
        pictures.twin_field(folder / "twin_field.png")
        step("pictures")
        pictures.common_hardware(folder / "protocols.png")
        step("single precision")
        losses = [*precision.block_losses(), *precision.rate_losses(256 if args.quick else 4096)]
        single = precision.table_losses()
        step("speed")
        speed = None if args.quick else precision.speeds(rounds=5)
        searched = []
        for target in [] if args.quick else fuzz.targets():
            progress.update(bar, description=f"search: {target.protocol}, {target.route}, {target.what}")
            searched += [fuzz.search(target, fuzz.CASES, kind) for kind in fuzz.PRECISIONS]
    text = pages.page(
        golden=golden, properties=found, crossings=crossings, counted=counted, anchors=anchors, losses=losses,
        table_losses=single, speed=speed, searched=searched, seed=args.seed, quick=args.quick,
        date=datetime.date.today().isoformat(),
    )  # fmt: skip
    path = args.out / "validation.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    faults = pages.faults(golden, found, [c for _, c in counted], searched)
    console.print(f"written: {path}")
    for fault in faults:
        console.print(f"[red]{fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
