"""The upcaster that has to be written, as far as two wire shapes can tell."""

from __future__ import annotations

import re

import msgspec

from hangarlog.schema.compare import breaking, compare_parts, shown
from hangarlog.schema.describe import Schema


def skeleton(event_type: str, version: int, before: Schema | None, after: Schema | None) -> str:
    """Python source of the step from `version` to the next. What only a person can know is `...`."""
    name = re.sub(r"\W", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", event_type)).lower()
    head = (
        f'@chain.upcaster("{event_type}", from_version={version})\n'
        f"def {name}_v{version}_to_v{version + 1}(data: dict[str, Any]) -> dict[str, Any]:\n"
    )
    if before is None or after is None:
        return f"{head}    return {{**data, ...}}  # what v{version} lacks, or has otherwise"
    return head + _body(before, after)


def _body(before: Schema, after: Schema) -> str:
    old, new = before.get("properties", {}), after.get("properties", {})
    removed = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    lines = []
    for name in added:
        renamed = [former for former in removed if not breaking(compare_parts(old[former], new[name], before, after))]
        if name in after["required"] and len(renamed) == 1:
            lines.append(f'"{name}": data["{renamed[0]}"],  # if it was renamed')
        elif name in after["required"]:
            lines.append(f'"{name}": ...,  # {shown(new[name])}: what it was before it was stored')
    for name in old:
        changes = breaking(compare_parts(old[name], new[name], before, after)) if name in new else []
        lost_default = name in new and name in after["required"] and name not in before["required"]
        changed_default = (
            name in new
            and name not in before["required"]
            and not lost_default
            and old[name].get("default") != new[name].get("default")
        )
        if lost_default or changed_default:
            default = msgspec.json.encode(old[name]["default"]).decode() if "default" in old[name] else "..."
            default = {"null": "None", "true": "True", "false": "False"}.get(default, default)
            lines.append(f'"{name}": data.get("{name}", {default}),  # the default of then')
        elif changes:
            lines.append(f'"{name}": ...,  # {"; ".join(change.what for change in changes)}; was data["{name}"]')
    kept = "**data"
    first = ""
    if removed:
        names = ", ".join(f'"{name}"' for name in removed)
        first = f"    gone = {{{names}}}\n"
        kept = "**{name: value for name, value in data.items() if name not in gone}"
    inner = "".join(f"        {line}\n" for line in (f"{kept},", *lines))
    return f"{first}    return {{\n{inner}    }}"
