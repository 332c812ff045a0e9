"""The report as Markdown, from what the run found."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence

from benchmarks.validation.agreement import CONFIDENCE, Comparison, surprising
from benchmarks.validation.experiments import Anchor
from benchmarks.validation.fuzz import Finding
from benchmarks.validation.golden import recompute as compare
from benchmarks.validation.precision import Loss
from benchmarks.validation.properties import Property
from benchmarks.validation.registry import find
from benchmarks.validation.table import Table

Speed = tuple[Mapping[str, float], Mapping[str, float], tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """One reference table: how many values were compared, and how much of the tolerance the worst used up."""

    name: str
    about: str
    values: int
    relative: float
    strain: float
    passed: bool


def recompute(table: Table) -> Recomputed:
    """Recompute a table in float64."""
    comparisons = compare(table)
    return Recomputed(
        name=table.path.rsplit("/", 1)[-1].removesuffix(".csv"),
        about=find(table.family).about.rstrip("."),
        values=sum(c.compared for c in comparisons),
        relative=max((c.relative for c in comparisons if not math.isnan(c.relative)), default=0.0),
        strain=max(c.strain for c in comparisons),
        passed=all(c.passed for c in comparisons),
    )


def faults(
    golden: Sequence[Recomputed],
    properties: Sequence[Property],
    counted: Sequence[Comparison],
    searched: Sequence[Finding],
) -> list[str]:
    """What should not be: one line each."""
    found = [f"reference table {t.name} fails" for t in golden if not t.passed]
    found += [f"property does not hold: {p.what}: {p.found}, wanted {p.wanted}" for p in properties if not p.holds]
    outside, compared = _outside(counted)
    if surprising(outside, compared):
        found.append(f"{outside} of {compared} counts outside their {CONFIDENCE:.0%} interval")
    found += [f"outside its interval twice: {c.point}, {c.quantity}" for c in counted if c.again and not c.inside]
    found += [
        f"search: {s.target.protocol}, {s.target.route}, {s.target.what}, {s.precision}: {kind} in {n} cases"
        for s in searched
        for kind, n in s.counts.items()
    ]
    return found


def _outside(counted: Sequence[Comparison]) -> tuple[int, int]:
    """How many of the first draws lie outside, and how many there are."""
    first = [c for c in counted if not c.again]
    return sum(not c.inside for c in first), len(first)


def page(
    *,
    golden: Sequence[Recomputed],
    properties: Sequence[Property],
    crossings: Mapping[str, float],
    counted: Sequence[tuple[str, Comparison]],
    anchors: Sequence[Anchor],
    losses: Sequence[Loss],
    table_losses: Sequence[tuple[str, str, float, float]],
    speed: Speed | None,
    searched: Sequence[Finding],
    seed: int,
    quick: bool,
    date: str,
) -> str:
    """The whole report."""
    return (
        "\n\n".join(
            [
                _head(quick, date),
                _golden(golden),
                _properties(properties, crossings),
                _counted(counted, seed),
                _experiments(anchors),
                _precision(losses, table_losses),
                _speed(speed),
                _search(searched),
            ]
        )
        + "\n"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    rule = ["---:" if i in right else "---" for i in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _number(x: float, digits: int = 3) -> str:
    if x == 0 or math.isnan(x):
        return "0" if x == 0 else ""
    return f"{x:.{digits}g}" if 1e-3 <= abs(x) < 1e4 else f"{x:.{digits - 1}e}"


def _head(quick: bool, date: str) -> str:
    quick_note = " This is a quick run: a hundredth of the photons, no speeds." if quick else ""
    return f"""# Validation of the physics

`python -m benchmarks.validation` computes and writes this page, on {date}.{quick_note} Five questions: does the code
compute what the formulas say (reference tables)? Do the formulas behave (limits, orders, brackets)? Do they describe
photons (counts drawn one by one, by a program that knows none of them)? Do they describe experiments? What do single
precision and compiled batches cost and gain? A search for values that break something ends the page."""


def _golden(golden: Sequence[Recomputed]) -> str:
    rows = [
        [t.name, _escape(t.about), str(t.values), _number(t.relative),
         f"{t.strain:.0%}" if t.strain >= 0.005 else "< 1 %", "holds" if t.passed else "**fails**"]
        for t in golden
    ]  # fmt: skip
    passed, values = sum(t.passed for t in golden), sum(t.values for t in golden)
    return f"""## Reference tables

Computed apart from this code, by plain NumPy, SciPy or 40-digit arithmetic, each with its own tolerance. {passed} of
{len(golden)} tables hold, {values} values in all (`make golden` prints every column). *Used up* is the largest share
of the tolerance that any value takes; a large relative error beside a small share is that of a value near zero.

{_table(("table", "what", "values", "largest relative error", "used up", ""), rows, (2, 3, 4))}"""


def _properties(properties: Sequence[Property], crossings: Mapping[str, float]) -> str:
    rows = [[_escape(p.what), p.found, p.wanted, "holds" if p.holds else "**fails**"] for p in properties]
    passed = ", ".join(f"{name} from {loss:g} dB" for name, loss in crossings.items())
    return f"""## Limits and properties

{_table(("what", "found", "wanted", ""), rows, (1, 2))}

All protocols on one link (100 km of fibre are 20 dB; superconducting detectors of 80 %, 1e-8 dark counts a gate,
1 dB of receiver; coherent receiver of 60 %), settings of each at their best for endless data. The bound of the
channel is passed by those that count single clicks in the middle: {passed}. Their security figures are not
alike: DPS stands against individual attacks only.

![key rate of every protocol against loss, with both bounds](validation/protocols.png)"""


def _counted(counted: Sequence[tuple[str, Comparison]], seed: int) -> str:
    outside, compared = _outside([c for _, c in counted])
    points = len({c.point for _, c in counted})
    sections = []
    for group, title, name in (
        ("decoy", "Decoy BB84", "photons_decoy"),
        ("twin field", "Twin field", "photons_twin_field"),
    ):
        rows = []
        for g, c in counted:
            if g == group:
                low, high = c.interval
                rows.append(
                    [_escape(c.point), c.quantity, _number(c.ours, 5), f"{c.counted.events} / {c.counted.trials:.3g}",
                     f"{_number(low, 4)} … {_number(high, 4)}",  _verdict(c)]
                )  # fmt: skip
        head = ("point", "quantity", "closed form", "events / trials", f"{CONFIDENCE:.0%} interval", "")
        sections.append(f"### {title}\n\n![counted over computed, {group}](validation/{name}.png)\n\n"
                        + _table(head, rows, (2, 3, 4)))  # fmt: skip
    repeated = sum(c.again and not c.inside for _, c in counted)
    verdict = "as chance has it" if not surprising(outside, compared) else "**more than chance allows**"
    return f"""## Photon by photon

Photon numbers are drawn, each photon meets the loss by itself and takes its port, detectors click by light or in the
dark, double clicks are settled by a coin; at the beam splitter, coherent amplitudes add or photon numbers divide
by the coefficients of a polynomial. The program (`benchmarks/validation/monte_carlo.py`) imports nothing of the
physics. Of {compared} comparisons at {points} points, seed {seed}, {outside} lie outside their own
{CONFIDENCE:.0%} interval, where {compared * (1 - CONFIDENCE):.1f} are expected: {verdict}. What lies outside is drawn
again with fresh photons, which a wrong form would not survive: of those, {repeated} are outside again. Quantities of
one point share their photons.

The BB84 forms are those of Ma et al. 2005, which add background and light where probabilities would combine: at
Y0 = 2e-4 they are 2e-4 of the gain apart, and the error of a double click differs in the third order of the
light that arrives. Neither shows in these counts.

""" + "\n\n".join(sections)


def _experiments(anchors: Sequence[Anchor]) -> str:
    rows = [
        [
            _escape(a.what),
            a.source,
            f"{_number(a.published, 5 if a.published >= 1 else 3)} {a.unit}",
            f"{_number(a.ours, 5 if a.ours >= 100 else 3)} {a.unit}",
            f"{a.ratio:.2f}",
            a.remark,
        ]
        for a in anchors
    ]
    return f"""## Published figures and experiments

{_table(("what", "published by", "published", "here", "here / published", "remark"), rows, (2, 3, 4))}

*Stated*: in the paper's own text. *Quoted*: as the field quotes it from tables and figures; look it up before
citing it from here. Vertical lines and triangles in the pictures are published reaches, dots are measured rates.

![GYS reaches and finite blocks](validation/bb84.png)

![reach of sending or not sending, and 1002 km](validation/twin_field.png)

### Known to be off

- **Boaron et al. 2018: twice too much.** With generic parameters the model gives 1.7 to 2.2 times
  the measured rates between 42.7 and 69.3 dB. The factor hardly moves over 27 dB, so the scaling is right and
  what lacks is a constant: losses inside the receiver and the monitoring of the three-state protocol are not in
  the model. Its measured points are not drawn, because this project has no checked table of them.
- **Liu et al. 2023 (1002 km): three to ten times too much.** The measured point lies below both curves.
  Detectors' noise, efficiency and misalignment are guesses (the paper's system noise of 0.02 counts/s, not the
  gate, is what is known), and the rates are those of endless data and endless decoys, without the duty cycle of
  phase references.
- **Lim et al. 2014.** The error model as printed (the channel's transmittance in the exponent) contradicts the
  paper's own text: 7 % of errors and a ratio of 2.73 where the text says 1.75. With the whole transmittance it
  gives what the table shows. Published reach and ratio lie between full and half afterpulse errors, at about
  0.73 of the printed term.
- **GLLP without decoys.** The reach with the best intensity is 40 km; papers quote about 30 km for less careful
  choices.
- **CAL19.** The crossing at 33 dB against 35 dB read off a figure is open."""


def _precision(losses: Sequence[Loss], tables: Sequence[tuple[str, str, float, float]]) -> str:
    rows = [[x.what, x.scale, f"{x.largest:.1e}", f"{x.median:.1e}"] for x in losses]
    worst = [[name, column, _number(relative), _number(absolute)] for name, column, relative, absolute in tables]
    return f"""## Single precision

float32 against float64 on the same inputs (rounded to float32 first), over the links of the tasks: 0 to 40 dB, 0
to 4 dB of receiver, 10 to 90 % efficiency, 1e-9 to 1e-5 dark counts a gate, 0.2 to 5 % misalignment; settings at
their defaults. Errors are shares of what the user sees, because a rate near its end has no digits of its own.

{_table(("what", "as a share of", "largest error", "median"), rows, (2, 3))}

And the reference tables in float32, worst column of each, over ranges far wider than the tasks'. A large
relative error is that of a difference near zero; the absolute one stands beside it.

{_table(("table", "worst column", "relative error", "absolute error"), worst, (2, 3))}"""


def _speed(speed: Speed | None) -> str:
    if speed is None:
        return "## Speed\n\nNot measured in a quick run."
    per_protocol, race, (median, low, high) = speed
    names = list(dict.fromkeys(key.split("|")[0] for key in per_protocol))
    rows = [
        [name, *(f"{per_protocol[f'{name}|{kind}']:,.0f}" if f"{name}|{kind}" in per_protocol else "" for kind in
                 ("endless", "block"))]
        for name in names
    ]  # fmt: skip
    contest = "; ".join(f"{name}: {rate:,.0f} keys/s" for name, rate in race.items())
    return f"""## Speed

Two-decoy finite keys from link and settings, compiled in batches of 65,536 in float32, against the same formulas
in plain NumPy and SciPy, one block at a time, alternating in one run: **{median:,.0f} times** as fast (lowest
{low:,.0f}, highest {high:,.0f} of the rounds). {contest}.

Key rates per second of every protocol, batches of 8,192, float32, on the {platform.machine()} CPU that wrote
this page, which other programs shared: orders of magnitude, no more.

{_table(("protocol", "endless data, 1/s", "finite block, 1/s"), rows, (1, 2))}"""


def _search(searched: Sequence[Finding]) -> str:
    text = """## Search for values that break something

`python -m benchmarks.validation.fuzz` draws cases over the full range of every parameter with all ends: 0 and
400 dB, no counts, no errors and all errors, certain and impossible choices, settings in an impossible order. It
looks for NaN and infinities in rates, bounds, key lengths and (in float64) derivatives, for negative reported
rates, rates above their bound, and keys longer than the clicks behind them, and fails on a find."""
    if not searched:
        return f"{text}\n\nNot run in a quick run."
    rows = []
    for s in searched:
        t = s.target
        finds = ", ".join(f"{kind}: {n}" for kind, n in s.counts.items()) or "none"
        where = (t.protocol, f"{t.route}: {t.what}", s.precision)
        rows.append([*where, f"{s.cases:,}", f"{s.positive:.1%}", str(s.lost), finds])
    cases = sum(s.cases for s in searched)
    columns = ("protocol", "searched", "precision", "cases", "with key", "derivatives lost", "finds")
    return f"""{text}

{cases:,} cases. *Derivatives lost* are those in float32, whose range they leave where there are parts of a click or
decoys of 1e-7 photons; they are no finds.

{_table(columns, rows, (3, 4, 5))}"""


def _verdict(c: Comparison) -> str:
    return ("inside" if c.inside else "**outside**") + (", drawn again" if c.again else "")
