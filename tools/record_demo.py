"""Record what the command line prints as an animated SVG: `python tools/record_demo.py > docs/demo.svg`.

The commands run in a temporary folder with the demo's store, whose events are real and always the same.
"""

import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

SCENES = """
# every event is a line of text, in the log of its stream …
ls demo-store/streams/provider/*.jsonl
# … and in the journal of the whole store
jq -c '[.position, .stream_id, .event_type]' demo-store/journal.jsonl | tail -n 3
# append from any process, with the version that you expect
hangarlog append demo-store order:1 --type Ordered --expected-version none
hangarlog append demo-store order:1 --type Ordered --expected-version none
# a disk flips a bit: the event is read from its other copy, and mended
printf X | dd of=demo-store/streams/order/1.jsonl bs=1 seek=120 conv=notrunc status=none
hangarlog repair demo-store | jq -c '[.result // "done", .source // .mended]'
hangarlog verify demo-store
"""
"""Commands, and comments that begin with `#`."""

COLUMNS, FONT, LINE, MARGIN = 96, 14, 20, 16
SECONDS_A_COMMAND, SECONDS_A_COMMENT = 1.6, 1.0
INK = {"comment": "#8b949e", "command": "#e6edf3", "output": "#a5d6ff", "prompt": "#7ee787"}


def record() -> list[tuple[str, str]]:
    """Run the scenes; return (kind, line) for each line of the screen."""
    lines: list[tuple[str, str]] = []
    bins = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bins}{os.pathsep}{os.environ['PATH']}", "COLUMNS": str(COLUMNS)}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["hangarlog", "demo"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        for command in SCENES.strip().splitlines():
            if command.startswith("#"):
                lines.append(("comment", command))
                continue
            lines.append(("command", command))
            done = subprocess.run(
                ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            shown = (done.stdout + done.stderr).replace(f"{os.path.realpath(folder)}/", "").replace(f"{folder}/", "")
            lines += [("output", line) for line in shown.splitlines()]
    return lines


def wrapped(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Break lines that are wider than the screen."""
    rows = []
    for kind, line in lines:
        width = COLUMNS - 2 * (kind == "command")
        rows += [
            (kind if not at else f"{kind}-rest", line[at : at + width]) for at in range(0, max(1, len(line)), width)
        ]
    return rows


def drawn(rows: list[tuple[str, str]]) -> str:
    """Return the SVG: each row appears in its turn, and all stay."""
    width, height = 2 * MARGIN + COLUMNS * 8.43, 2 * MARGIN + LINE * len(rows)
    texts, at = [], 0.3
    for number, (kind, line) in enumerate(rows):
        kind, _, rest = kind.partition("-")
        if not rest:
            at += {"command": SECONDS_A_COMMAND, "comment": SECONDS_A_COMMENT}.get(kind, 0.05)
        prompt = f'<tspan fill="{INK["prompt"]}">{"  " if rest else "$ "}</tspan>' if kind == "command" else ""
        texts.append(
            f'<text class="row" style="animation-delay:{at:.2f}s" x="{MARGIN}" y="{MARGIN + LINE * (number + 0.75):g}" '
            f'fill="{INK[kind]}" xml:space="preserve">{prompt}{escape(line)}</text>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-size="{FONT}" '
            'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" role="img">',
            "<title>hangarlog in a terminal: streams are files, appends are checked, damage is mended</title>",
            "<style>.row{opacity:0;animation:show .01s linear forwards}@keyframes show{to{opacity:1}}"
            "@media(prefers-reduced-motion:reduce){.row{opacity:1;animation:none}}</style>",
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#0d1117"/>',
            *texts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(drawn(wrapped(record())))
