"""The style sheet of the report page: light, dark and print; nothing is fetched."""

STYLE = """
:root{--ink:#1b1f24;--soft:#57606a;--paper:#fff;--panel:#f6f8fa;--line:#d0d7de;--link:#0550ae;--good:#116329;
--bad:#a40e26;--warn:#fff3d6;--warnline:#b58105;--alarm:#ffe3e3;--shade:#0003;--alarmline:#c5221f}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--paper:#0f1318;--panel:#181e25;--line:#343c46;
--link:#79b8ff;--good:#6fdd8b;--bad:#ff9d9d;--warn:#372c0d;--warnline:#c9a227;--alarm:#46161a;--shade:#fff3;--alarmline:#ff8a8a}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}
a{color:var(--link)}
header,footer,.columns{max-width:80rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:2rem}
header p{margin:.2rem 0;color:var(--soft)}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.35rem;margin:2.6rem 0 .8rem;padding-bottom:.3rem;border-bottom:2px solid var(--line)}
h3{font-size:1.05rem;margin:1.8rem 0 .5rem}
nav{font-size:.92rem;background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.7rem 1.1rem;
margin-top:1.4rem}
nav h2{font-size:.78rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);border:0;margin:0;padding:0}
nav ol{margin:.3rem 0 0;padding-left:1.6rem;columns:15rem;column-gap:2.5rem}
nav li{padding:.12rem 0;color:var(--soft);break-inside:avoid}
@media (min-width:100rem){header,footer,.columns{max-width:96rem}
.columns{display:grid;grid-template-columns:14rem minmax(0,1fr);gap:2.5rem}
nav{position:sticky;top:1rem;align-self:start;max-height:calc(100vh - 2rem);overflow:auto;margin-top:2.6rem}
nav ol{columns:auto}}
main{min-width:0}
section>:last-child{margin-bottom:0}
.scroll,.plot{overflow-x:auto;max-width:100%}
.scroll{background:linear-gradient(90deg,var(--paper) 1.2rem,transparent 2.4rem) local,
linear-gradient(270deg,var(--paper) 1.2rem,transparent 2.4rem) right local,
linear-gradient(90deg,var(--shade),transparent .9rem),linear-gradient(270deg,var(--shade),transparent .9rem) right}
.sheet{font-size:14px}
.sheet tbody th:first-child,.sheet thead th.text:first-child{position:sticky;left:0;background:var(--paper);z-index:1}
.sheet th,.sheet td{padding:.25em .6em}
.scroll:focus-visible,.plot:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-size:.88rem;line-height:1.35;font-variant-numeric:tabular-nums;margin:.2rem 0}
th,td{padding:.3rem .65rem;text-align:left;vertical-align:top;overflow-wrap:normal}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom;font-weight:600}
tbody th{font-weight:500;text-align:left}
table.plain td,table.plain tbody th{border-top:1px solid var(--line)}
table.plain td{max-width:38rem;overflow-wrap:anywhere}
.summary{max-width:62rem;padding-left:1.2rem}
.summary li{margin:.45rem 0}
.caution{border-left:4px solid var(--warnline);background:var(--warn);padding:.5rem .9rem;margin:1rem 0}
.alarm{border-left:6px solid var(--alarmline);background:var(--alarm);padding:.6rem .9rem;margin:1rem 0;font-weight:600}
header p.alarm{color:var(--ink)}
.absent{color:var(--soft);font-style:italic;border-left:4px solid var(--line);padding:.3rem .9rem;margin:.8rem 0}
figure{margin:1.4rem 0 2rem}
.plot{background:#fff;border:1px solid var(--line);border-radius:6px;padding:.5rem}
.plot svg{display:block;width:100%;height:auto;max-width:60rem;margin:0 auto}
figcaption{color:var(--soft);font-size:.88rem;margin-top:.5rem;max-width:70rem}
dl{display:grid;grid-template-columns:minmax(9rem,14rem) minmax(0,1fr);gap:.15rem 1.2rem;margin:.6rem 0}
dt{font-weight:600;grid-column:1}
dd{margin:0;grid-column:2}
code{font:.86em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.findings{list-style:none;padding:0;max-width:70rem}
.findings li{padding:.35rem .9rem;margin:.3rem 0;border-left:4px solid var(--line);background:var(--panel);
font-size:.93rem}
.findings b{font-size:.75rem;text-transform:uppercase;letter-spacing:.05em;color:var(--soft);margin-right:.4rem}
.findings .warning{border-color:var(--alarmline)}.findings .notice{border-color:var(--warnline)}
footer{color:var(--soft);font-size:.85rem;border-top:1px solid var(--line);margin-top:3rem;padding-bottom:2rem}
details{margin:1rem 0 1.4rem}
summary{cursor:pointer;color:var(--link);font-weight:600;padding:.25rem 0}
details>.sheet{margin-top:.6rem}
@media (max-width:48rem){header,footer,.columns{padding-left:.9rem;padding-right:.9rem}h1{font-size:1.5rem}
dl{display:block}dt{margin-top:.6rem}.plot svg{min-width:40rem}}
@media print{.sheet tbody th:first-child{position:static}
:root{--ink:#000;--soft:#333;--paper:#fff;--panel:#fff;--line:#999;--link:#000;--good:#000;--bad:#000;
--warn:#fff;--alarm:#fff}body{font-size:10pt}nav{display:none}.columns{display:block}
header,footer,.columns{max-width:none;padding:0}.scroll,.plot{overflow:visible}figure,tr{break-inside:avoid}
details::details-content{content-visibility:visible;display:block}h2,h3{break-after:avoid}table{font-size:8pt}.plot{border:0}a{text-decoration:none}}
""".strip().replace("\n", "")
