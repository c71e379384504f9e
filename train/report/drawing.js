"use strict";
// What pages are drawn with: elements, charts, clouds that turn, tables.
const $ = id => document.getElementById(id);
const pct = v => v == null || Number.isNaN(v) ? "–" : (100 * v).toFixed(1) + " %";
const el = (tag, text, parent, cls) => { const e = document.createElement(tag); if (text != null) e.textContent = text; if (cls) e.className = cls; if (parent) parent.append(e); return e; };
const SVG = "http://www.w3.org/2000/svg";
const node = (tag, values, parent, text) => { const e = document.createElementNS(SVG, tag); for (const [k, v] of Object.entries(values)) e.setAttribute(k, v); if (text != null) e.textContent = text; parent.append(e); return e; };
const COLOURS = ["var(--a)", "var(--b)", "var(--c)", "var(--d)", "var(--e)", "var(--f)"];
// Round numbers from at or below lo to at or above hi, about `count` steps of 1, 2 or 5 times a power of ten.
function ticks(lo, hi, count, least = 0) {
  const raw = (hi - lo) / count, power = 10 ** Math.floor(Math.log10(raw)), step = Math.max(least, power * [1, 2, 5, 10].find(m => m * power >= raw * .999));
  const found = [], first = Math.floor(lo / step + 1e-9), last = Math.ceil(hi / step - 1e-9);
  for (let i = first; i <= last; i++) found.push(i * step);
  return found;
}
const size = Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const short = v => v && (Math.abs(v) < 1e-4 || Math.abs(v) >= 1e6) ? v.toExponential(1).replace(".0e", "e") : size.format(v);
function chart(parent, c, xs, unit) {
  const lines = c.lines, all = lines.flatMap(l => l.y).filter(v => v != null), card = el("div", null, parent, "card"); el("b", c.title, card);
  if (c.broken) el("p", `${c.broken} ${c.broken === 1 ? "value is" : "values are"} no finite number and left out.`, card);
  if (!all.length) { el("p", "No values.", card); return; }
  const beside = lines.length > 1 && lines.length < 6 && lines.every(l => l.name.length < 15);
  const W = 460, H = 210, L = 50, R = beside ? 16 + 6.3 * Math.max(...lines.map(l => l.name.length)) : 14, T = 12, B = 26, n = xs.length;
  if (!beside) legend(card, lines.map((l, j) => [l.name, COLOURS[j % COLOURS.length]]));
  let lo = Math.min(...all), hi = Math.max(...all);
  if (hi - lo < 1e-9 * Math.max(1, Math.abs(hi))) { const half = c.share ? .05 : Math.abs(hi) / 2 || .5; lo -= half; hi += half; }
  if (c.share) { lo = Math.max(0, lo); hi = Math.min(1, hi); if (hi - lo < .02) { lo = Math.max(0, hi - .1); hi = Math.min(1, lo + .1); } }  // a share is never above 100 %
  const marks = ticks(lo, hi, 4); lo = marks[0]; hi = marks[marks.length - 1];
  const numbers = xs.every((v, i) => typeof v === "number" && (!i || v > xs[i - 1])), from = xs[0], to = xs[n - 1];
  const x = i => L + (W - L - R) * (n === 1 ? .5 : numbers ? (xs[i] - from) / (to - from) : i / (n - 1)), y = v => H - B - (H - T - B) * (v - lo) / (hi - lo);
  const svg = node("svg", { viewBox: `0 0 ${W} ${H}`, width: "100%", role: "img" }, card); svg.setAttribute("aria-label", c.title);
  for (const v of marks) {
    node("line", { x1: L, x2: W - R, y1: y(v), y2: y(v), stroke: "var(--line)" }, svg);
    node("text", { x: L - 6, y: y(v) + 4, "text-anchor": "end" }, svg, c.share ? size.format(100 * v) + " %" : short(v));
  }
  const places = n > 1 && numbers ? ticks(from, to, 5, xs.every(Number.isInteger) ? 1 : 0).filter(v => v >= from && v <= to) : [];
  if (places.length > 1) for (const v of places) node("text", { x: L + (W - L - R) * (v - from) / (to - from), y: H - 8, "text-anchor": "middle" }, svg, short(v));
  else xs.forEach((v, i) => { if (i === 0 || i === n - 1) node("text", { x: x(i), y: H - 8, "text-anchor": "middle" }, svg, typeof v === "number" ? short(v) : v); });
  if (unit) node("text", { x: 4, y: H - 8 }, svg, unit);
  const ends = [];
  lines.forEach((l, j) => {
    const color = COLOURS[j % COLOURS.length], known = l.y.map((v, i) => i).filter(i => l.y[i] != null);
    node("path", { fill: "none", stroke: color, "stroke-width": 2, "stroke-linejoin": "round", d: known.map(i => `${l.y[i - 1] == null ? "M" : "L"}${x(i)} ${y(l.y[i])}`).join("") }, svg);
    for (const i of known) if (known.length < 13 || (l.y[i - 1] == null && l.y[i + 1] == null)) node("circle", { cx: x(i), cy: y(l.y[i]), r: 3, fill: color }, svg);
    if (beside && known.length) { const i = known[known.length - 1]; ends.push({ name: l.name, color, at: y(l.y[i]) + 4 }); }
  });
  ends.sort((p, q) => p.at - q.at).forEach((e, j) => { if (j) e.at = Math.max(e.at, ends[j - 1].at + 13); });
  for (let j = ends.length - 1, most = H - B + 4; j >= 0; j--, most -= 13) ends[j].at = Math.min(ends[j].at, most);
  for (const e of ends) node("text", { x: W - R + 8, y: e.at, style: `fill:${e.color};font-weight:600` }, svg, e.name);
}
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
function legend(parent, entries) {
  const box = el("div", null, parent, "legend");
  for (const [name, color] of entries) { const one = el("span", name, box); one.style.setProperty("--dot", color); }
}
// Points of `packed` coordinates (up to `full`) that turn, with all others of the same view, when they are dragged: from the
// farthest to the nearest, `paint(g, i, near, x, y)` draws point i; `near` goes from 0 to 1.
function turning(parent, P, full, view, paint) {
  const canvas = el("canvas", null, parent), n = P.length / 3, S = canvas.width = canvas.height = 420, g = canvas.getContext("2d"); let spin = false;
  function draw() {
    const c = Math.cos(view.turn), s = Math.sin(view.turn), ct = Math.cos(view.tilt), st = Math.sin(view.tilt), order = [];
    for (let i = 0; i < n; i++) { const X = P[3 * i] / full, Y = P[3 * i + 1] / full, Z = P[3 * i + 2] / full, x = c * X + s * Z, z = c * Z - s * X; order.push([ct * z + st * Y, S / 2 + .46 * S * x, S / 2 - .46 * S * (ct * Y - st * z), i]); }
    order.sort((a, b) => a[0] - b[0]); g.clearRect(0, 0, S, S);
    for (const [depth, px, py, i] of order) paint(g, i, (depth + 1) / 2, px, py);
  }
  canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); spin = true; };
  canvas.onpointermove = e => { if (spin) { view.turn += e.movementX / 80; view.tilt = Math.max(-1.5, Math.min(1.5, view.tilt + e.movementY / 80)); view.draws.forEach(again => again()); } };
  canvas.onpointerup = () => { spin = false; };
  view.draws.push(draw); draw();
}
const square = (g, x, y, r) => g.fillRect(x - r / 2, y - r / 2, r, r);
function cloud(parent, shape, view = { turn: .6, tilt: .35, draws: [] }) {
  const box = el("div", null, parent, "cloud" + (shape.mark ? " " + shape.mark : ""));
  const P = shape.fine ? new Int16Array(bytes(shape.fine).buffer) : new Int8Array(bytes(shape.points).buffer), full = shape.fine ? 32767 : 127;
  const classes = shape.colours ? bytes(shape.colours) : null, small = P.length > 9000 ? .8 : classes ? 1.4 : 1, faint = classes ? .75 : .4, fall = shape.dropped ? bytes(shape.dropped) : null;
  const style = getComputedStyle(document.body), kept = style.getPropertyValue("--a").trim(), lost = style.getPropertyValue("--b").trim();
  turning(box, P, full, view, (g, i, near, x, y) => {
    const f = fall ? fall[i] / 255 : 0; g.globalAlpha = faint + (1 - faint) * near;
    g.fillStyle = classes ? shape.palette[classes[i]] : f > 0 && (fall && shape.graded ? f > .34 : true) ? lost : kept; square(g, x, y, small * (3.2 + 2 * near));
  });
  el("div", shape.title, box); const sub = el("div", shape.note, box); sub.style.color = "var(--soft)";
  if (shape.legend) legend(box, shape.legend);
}
function table(parent, head, rows, cell) {
  const t = el("table", null, parent), top = el("tr", null, t); head.forEach(h => el("th", h, top));
  rows.forEach(row => { const tr = el("tr", null, t); row.forEach((v, i) => cell(v, i, tr)); });
}
function strip(parent, clip) {
  const box = el("div", null, parent, "cloud" + (clip.mark ? " " + clip.mark : "")); el("img", null, box).src = "data:image/png;base64," + (clip.strip ?? clip.image);
  el("div", clip.title, box); el("div", clip.note, box).style.color = "var(--soft)";
}
const count = v => typeof v === "number" ? v.toLocaleString("en") : v;
