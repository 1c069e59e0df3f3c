// The scores over time: dots by verdict, the band of good parts, the threshold.

import { amount, visible } from "./display.js";

const wide = 30; // a ratio of scores from which on the axis is logarithmic, as in the report
const space = "http://www.w3.org/2000/svg";

function shape(tag, attributes, text = "") {
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// Round values within an axis, of which `low` and `high` are logarithms if it is logarithmic.
function ticks(low, high, log) {
  const found = [];
  if (log) {
    for (let power = Math.floor(low / Math.LN10); power <= high / Math.LN10; power++)
      for (const digit of high - low > 10 ? [1] : [1, 2, 5]) found.push(digit * 10 ** power);
    return found.filter((value) => Math.log(value) >= low && Math.log(value) <= high);
  }
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= rough);
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(6)));
  return found;
}

// Rows are oldest first; model has band and threshold; open(row) is called for the dot clicked.
export function chart(root, rows, model, current, open) {
  const width = Math.max(280, root.clientWidth), height = 220;
  const left = 64, right = 12, top = 12, bottom = 26;
  const lines = [...(model.band ?? []), model.threshold].filter(Number.isFinite);
  const values = [...rows.map((row) => row.score), ...lines];
  let low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low > wide;
  const scale = log ? Math.log : (value) => value;
  const margin = 0.06 * (scale(high) - scale(low)) || Math.abs(scale(high)) * 0.1 || 1;
  low = scale(low) - margin;
  high = scale(high) + margin;
  const y = (value) => top + (height - top - bottom) * (high - scale(value)) / (high - low);
  const x = (i) => left + (width - left - right) * (0.01 + 0.98 * (rows.length > 1 ? i / (rows.length - 1) : 0.5));
  const svg = shape("svg", { class: "chart", role: "img", viewBox: `0 0 ${width} ${height}`,
    "aria-label": `Scores of the last ${rows.length} images, oldest first` });
  for (const value of ticks(low, high, log))
    svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      shape("text", { class: "end", x: left - 8, y: y(value) + 4 }, amount(value)));
  if (model.band) {
    const [from, to] = model.band;
    svg.append(shape("rect", { class: "validation area", x: left, width: width - left - right,
      y: y(to), height: Math.max(1, y(from) - y(to)) }));
  }
  if (Number.isFinite(model.threshold))
    svg.append(shape("line", { class: "honest", x1: left, x2: width - right,
      y1: y(model.threshold), y2: y(model.threshold) }));
  rows.forEach((row, i) => {
    const dot = shape("circle", { class: row.defective ? "defective" : "good", r: 4,
      cx: x(i), cy: y(row.score), "data-id": row.id, "aria-current": row.id === current });
    dot.append(shape("title", {}, `${visible(row.name)}: ${amount(row.score)}`));
    dot.addEventListener("click", () => open(row));
    svg.append(dot);
  });
  if (rows.length > 1) {
    const time = (row) => new Date(1000 * row.time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    svg.append(shape("text", { class: "start", x: left, y: height - 6 }, time(rows[0])),
      shape("text", { class: "end", x: width - right, y: height - 6 }, time(rows.at(-1))));
  }
  root.replaceChildren(svg);
}
