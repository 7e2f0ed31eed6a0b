"""`mplug train plan`: what a training run would need."""

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from mplug_services.cli.common import EXIT_OK, CliError, UsageError, results

if TYPE_CHECKING:
    from mplug.train.plan import Plan

_GIB = 2**30
_HOUR = 3600
_NEEDED = ("parameters", "layers", "hidden", "tokens", "sequence", "batch", "peak", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sizes that a plan is made from."""
    group = parser.add_argument_group("for `mplug train plan`", "what a run would need, from sizes alone")
    group.add_argument("--parameters", type=float, metavar="P", help="of the model, such as 1.3e9")
    group.add_argument("--layers", type=int, metavar="L")
    group.add_argument("--hidden", type=int, metavar="D", help="the model's width")
    group.add_argument("--vocab", type=int, default=0, metavar="V", help="of a model that writes; default: 0")
    group.add_argument("--trained-share", type=float, default=1.0, metavar="S", help="what is not frozen")
    group.add_argument("--tokens", type=float, metavar="N", help="of the whole run, every epoch counted")
    group.add_argument("--sequence", type=int, metavar="T", help="tokens of one example")
    group.add_argument("--batch", type=int, metavar="B", help="examples that a device computes at a time")
    group.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    group.add_argument("--recompute", action="store_true", help="compute layers again in the backward pass")
    group.add_argument("--sharding", default="none", choices=("none", "full"))
    group.add_argument("--peak", type=float, metavar="TFLOPS", help="of one device, such as 312")
    group.add_argument("--memory", type=float, metavar="GIB", help="of one device, such as 80")
    group.add_argument("--utilisation", type=float, default=0.4, metavar="MFU", help="default: 0.4")
    group.add_argument("--devices", type=int, default=0, help="default: as few as suffice")
    group.add_argument("--hours", type=float, default=math.inf, help="by when the run must have ended")
    group.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the plan."""
    missing = [f"--{name}" for name in _NEEDED if getattr(options, name) is None]
    if missing:
        raise UsageError(f"a plan also takes {', '.join(missing)}")
    from mplug.errors import MplugError
    from mplug.train.plan import Device, ModelSize, Workload, plan

    size = ModelSize(**{name: getattr(options, name) for name in ModelSize.__slots__})
    work = Workload(**{name: getattr(options, name) for name in Workload.__slots__})
    device = Device(peak=options.peak * 1e12, memory=options.memory * _GIB, utilisation=options.utilisation)
    try:
        found = plan(size, work, device, devices=options.devices, seconds=options.hours * _HOUR)
    except MplugError as error:
        raise CliError(str(error)) from error
    if options.json:
        facts = {**asdict(found), "memory": {**asdict(found.memory), "total": found.memory.total}}
        print(json.dumps(facts))
    else:
        results().print(_table(found))
    return EXIT_OK


def _table(found: "Plan") -> Table:
    table = Table(title="plan", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_row("devices", f"{found.devices:,}")
    table.add_row("time", f"{found.seconds / _HOUR:,.2f} hours")
    table.add_row("operations", f"{found.operations:.3g}", end_section=True)
    for name, value in {**asdict(found.memory), "total": found.memory.total}.items():
        table.add_row(f"{name} on each", f"{value / _GIB:,.2f} GiB")
    return table
