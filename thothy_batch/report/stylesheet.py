"""The page's style sheet: system fonts, light and dark by the reader's setting, prints well."""

STYLE = """
:root{--bg:#fbfaf8;--card:#fff;--ink:#1d1c1a;--soft:#6b6862;--line:#e5e1da;--accent:#0f6b5c;
--second:#c08a2d;--good:#14633d;--warn:#8a5a00;--bad:#a02622}
@media (prefers-color-scheme:dark){:root{--bg:#161614;--card:#1f1f1c;--ink:#ece9e2;--soft:#a09c93;
--line:#34332f;--accent:#5cc7b2;--second:#e0b35c;--good:#6fcf97;--warn:#e8b94f;--bad:#f0857f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
.eyebrow{margin:0;color:var(--soft);font-size:13px}
h1{margin:.1em 0 .3em;font-size:30px;line-height:1.2;overflow-wrap:anywhere}
h2{margin:36px 0 10px;font-size:18px}
h3{margin:18px 0 4px;font-size:15px}
h3 b{color:var(--bad);margin-left:.4em}
p{margin:.3em 0}
.state{display:inline-block;padding:2px 10px;border-radius:999px;border:1px solid;font-weight:600}
.completed{color:var(--good)}.running{color:var(--accent)}.stopped{color:var(--warn)}
.failed{color:var(--bad)}
.next{border-left:3px solid var(--second);padding-left:10px;margin-top:12px}
.note,.legend,small{color:var(--soft);font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:22px 0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
dt{color:var(--soft);font-size:13px}
dd{margin:2px 0;font-size:24px;font-weight:650;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:7px 12px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600;white-space:nowrap}
tr:last-child td{border-bottom:0}
td{overflow-wrap:anywhere;min-width:4em}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}
svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
svg text{fill:var(--soft);font-size:11px}
.grid{stroke:var(--line)}
polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}
polyline.decode{stroke:var(--accent)}
polyline.prefill{stroke:var(--second)}
.legend i{display:inline-block;width:14px;height:3px;margin:0 6px 3px 10px}
i.decode{background:var(--accent)}
i.prefill{background:var(--second)}
summary{cursor:pointer;color:var(--soft)}
@media print{main{max-width:none;padding:0}.scroll{border:0}}
"""
