"""The style sheet of the page of plots: light and dark, for screens of any width and for paper."""

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b2129;--muted:#5f6b7a;--rule:#dfe3e8;--grid:#e9ecf0;
--accent:#2866d1;--soft:#2866d11f;--mark:#b3540a;--warn:#a4262c;--warn-soft:#fdecec}
@media(prefers-color-scheme:dark){:root{--page:#0e1116;--card:#161b22;--ink:#e4e9ef;--muted:#93a0af;--rule:#2b323b;
--grid:#232a33;--accent:#7aa9f7;--soft:#7aa9f72b;--mark:#e8a15c;--warn:#ff9a98;--warn-soft:#3a1d1f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:28px 20px 40px}
h1{font-size:26px;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:16px;margin:0}
.path,.note,footer{color:var(--muted);font-size:13px;overflow-wrap:anywhere}
.path{margin:4px 0 0}
.note{margin:2px 0 10px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:12px;margin:22px 0 16px}
.tile,figure{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tile{padding:12px 14px}
.tile b{display:block;font-size:21px;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
.tile span{color:var(--muted);font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:16px}
figure{margin:0;padding:16px 18px 14px;min-width:0;break-inside:avoid}
svg{display:block;width:100%;height:auto;overflow:visible}
.grid{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--muted);stroke-width:1;opacity:.6}
.tick,.unit{fill:var(--muted);font-size:12px}
.unit{font-size:11px}
.line{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}
.area{fill:var(--soft)}
.bar{fill:var(--accent)}
.mark{stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}
.mark-label{fill:var(--mark);font-size:12px;font-weight:600}
.meter{height:8px}
.rail{fill:var(--grid)}
table{width:100%;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th{color:var(--muted);font-weight:500;font-size:12px;text-align:right;padding:0 0 4px 12px}
td{text-align:right;padding:5px 0 5px 12px;border-top:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal;overflow-wrap:anywhere}
td.meter-cell{width:26%;min-width:56px}
.problems{background:var(--warn-soft);color:var(--warn);border:1px solid;border-radius:10px;
padding:10px 16px;margin:0 0 16px}
.problems ul{margin:4px 0 0;padding-left:20px;overflow-wrap:anywhere}
footer{margin-top:22px}
@media(max-width:520px){main{padding:18px 12px 28px}.tick,.mark-label{font-size:16px}.unit{font-size:13px}
h1{font-size:21px}
figure{padding:14px 12px 12px}td.meter-cell{width:18%;min-width:36px}}
@media(max-width:420px){td.meter-cell,th:nth-child(2):empty{display:none}}
@media print{body{background:#fff}main{max-width:none}}
"""
