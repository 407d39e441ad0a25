// A metric over the rounds chosen. Values that spread over more than a decade above their middle get a logarithmic axis.
"use strict";

const CURVE_PX = 230;
const LOG_ABOVE = 10;

function within(xs, { first, last }) {
  let begin = 0;
  let end = xs.length;
  while (begin < end && xs[begin] < first) begin += 1;
  while (end > begin && xs[end - 1] > last) end -= 1;
  return [begin, end];
}

function sliced({ x, ...columns }, span) {
  const [begin, end] = within(x, span);
  return Object.fromEntries(Object.entries({ x, ...columns }).map(([name, values]) => [name, Array.isArray(values) ? values.slice(begin, end) : values]));
}

// The range of an axis: all values, or, where a few lie far off and cannot be put on a logarithmic axis, most of them.
function rangeOf(values, wanted) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return { low: 0, high: 1, isLog: false, numOutside: 0 };
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  let [low, high] = [sorted[0], sorted[sorted.length - 1]];
  const isLog = low > 0 && (wanted ? wanted === "log" : high > LOG_ABOVE * at(0.5));
  if (isLog) return { low: low / 1.05, high: high * 1.05, isLog, numOutside: 0 };
  const [near, far] = [at(0.02), at(0.98)];
  if (!wanted && far > near && high - low > LOG_ABOVE * (far - near)) [low, high] = [near, far];
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  const numOutside = sorted.filter((value) => value < low - margin || value > high + margin).length;
  return { low: low - margin, high: high + margin, isLog, numOutside };
}

function drawCurve(element, figure, span) {
  const shown = figure.series.map((each) => sliced(each, span)).filter((each) => each.x.length);
  const band = sliced(figure.band, span);
  const values = [...shown.flatMap((each) => each.y), ...band.low, ...band.high];
  const range = rangeOf(values, element.dataset.scale);
  const width = element.clientWidth;
  const ticks = range.isLog ? logTicks(range.low, range.high, 6) : evenTicks(range.low, range.high, 5, values.every(Number.isInteger));
  const left = Math.max(...ticks.map((tick) => widthOf(digits(tick))), 20) + 8;
  const [top, bottom, right] = [6, CURVE_PX - 24, width - 12];
  const begin = Math.min(...shown.map((each) => each.x[0]));
  const end = Math.max(...shown.map((each) => each.x[each.x.length - 1]));
  const onX = (value) => (end > begin ? left + ((value - begin) / (end - begin)) * (right - left) : (left + right) / 2);
  const scale = range.isLog ? Math.log : (value) => value;
  const onY = (value) => bottom - ((scale(value) - scale(range.low)) / (scale(range.high) - scale(range.low) || 1)) * (bottom - top);
  const svg = surface(width, CURVE_PX);
  const clip = `clip ${element.dataset.figure}`.replace(/\W/g, "-");
  const hole = shape("clipPath", { id: clip });
  hole.append(shape("rect", { x: left - 4, y: top - 4, width: right - left + 8, height: bottom - top + 8 }));
  svg.append(hole);
  drawAxes(svg, { ticks, onX, onY, begin, end, left, right, top, bottom });
  const inside = shape("g", { "clip-path": `url(#${clip})` });
  if (band.x.length) {
    const there = band.x.map((at, index) => `${onX(at)},${onY(band.high[index])}`);
    const back = band.x.map((at, index) => `${onX(at)},${onY(band.low[index])}`).reverse();
    inside.append(shape("polygon", { points: [...there, ...back].join(" "), class: "band", fill: "var(--green)" }));
  }
  for (const mark of (figure.marks ?? []).filter(({ round }) => round >= begin && round <= end)) {
    inside.append(shape("line", { x1: onX(mark.round), x2: onX(mark.round), y1: top, y2: bottom, class: "mark" }));
  }
  for (const each of shown) drawSeries(inside, each, onX, onY, bottom);
  svg.append(inside);
  element.replaceChildren(...curveHead(element, figure, shown, band, range), svg);
  followPointer(svg, shown, band, figure, { onX, begin, end, left, right, top, bottom });
}

function drawAxes(svg, { ticks, onX, onY, begin, end, left, right, top, bottom }) {
  for (const tick of ticks) {
    const y = onY(tick);
    if (y < top - 1 || y > bottom + 1) continue;
    svg.append(shape("line", { x1: left, x2: right, y1: y, y2: y, class: "grid" }));
    svg.append(shape("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, digits(tick)));
  }
  const rounds = evenTicks(begin, end, Math.max(2, Math.floor((right - left) / 70)), true);
  for (const { x, text } of apart(rounds.map((round) => ({ x: onX(round), text: String(round) })), 10)) {
    svg.append(shape("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "grid" }));
    svg.append(shape("text", { x: Math.min(x, right + 10 - widthOf(text) / 2), y: bottom + 17, "text-anchor": "middle" }, text));
  }
}

function drawSeries(group, { x, y, colour, dash }, onX, onY, bottom) {
  let path = "";
  let isDown = false;
  x.forEach((at, index) => {
    const value = y[index];
    if (!Number.isFinite(value)) {
      group.append(shape("text", { x: onX(at), y: bottom, "text-anchor": "middle", class: "nan" }, "×"));
      isDown = false;
      return;
    }
    path += `${isDown ? "L" : "M"}${onX(at).toFixed(1)} ${onY(value).toFixed(1)}`;
    isDown = true;
  });
  group.append(shape("path", { d: path, class: dash ? "line dash" : "line", stroke: `var(--${colour})` }));
  if (x.length > 60) return;
  x.forEach((at, index) => {
    if (Number.isFinite(y[index])) group.append(shape("circle", { cx: onX(at), cy: onY(y[index]), r: 2.5, fill: `var(--${colour})` }));
  });
}

function curveHead(element, figure, shown, band, range) {
  const items = shown.map((each) => ({ colour: `var(--${each.colour})`, text: each.name, dash: each.dash }));
  if (band.x.length) items.push({ colour: "var(--green-band)", text: "worst to best site" });
  if (shown.some((each) => each.y.some((value) => value === null))) items.push({ colour: "var(--bad)", text: "× NaN or infinite" });
  if (figure.marks?.length) items.push({ colour: "var(--quiet)", text: "changed on the way", dash: true });
  const line = legend(items);
  const button = part("button", "scale", range.isLog ? "log" : "linear");
  button.title = "change the axis";
  button.addEventListener("click", () => {
    element.dataset.scale = range.isLog ? "linear" : "log";
    redraw(element);
  });
  line.append(button);
  if (range.numOutside) line.append(part("span", "", `${range.numOutside} beyond the axis`));
  return [line];
}

function followPointer(svg, shown, band, figure, { onX, begin, end, left, right, top, bottom }) {
  const cursor = shape("line", { y1: top, y2: bottom, class: "cursor", visibility: "hidden" });
  const chosen = shape("rect", { y: top, height: bottom - top, class: "chosen", visibility: "hidden" });
  svg.append(chosen, cursor);
  let from = null;
  const roundAt = (event) => {
    const x = event.clientX - svg.getBoundingClientRect().left;
    return Math.round(begin + (Math.min(1, Math.max(0, (x - left) / (right - left)))) * (end - begin));
  };
  svg.addEventListener("pointerdown", (event) => { from = event.pointerType === "mouse" ? roundAt(event) : null; });
  svg.addEventListener("pointerup", (event) => {
    const to = roundAt(event);
    if (from !== null && Math.abs(to - from) >= 2) chooseRounds({ first: Math.min(from, to), last: Math.max(from, to) });
    from = null;
  });
  svg.addEventListener("dblclick", () => chooseRounds({ newest: Infinity }));
  svg.addEventListener("pointerleave", () => {
    from = null;
    hideTip();
    for (const each of [cursor, chosen]) each.setAttribute("visibility", "hidden");
  });
  svg.addEventListener("pointermove", (event) => {
    const round = roundAt(event);
    const at = (xs) => xs.reduce((best, x, index) => (Math.abs(x - round) < Math.abs(xs[best] - round) ? index : best), 0);
    const lines = shown.map((each) => `${each.name}: ${each.y[at(each.x)] === null ? "NaN or infinite" : digits(each.y[at(each.x)])}`);
    if (band.x.length) lines.push(`sites: ${digits(band.low[at(band.x)])} to ${digits(band.high[at(band.x)])}`);
    for (const mark of figure.marks ?? []) if (mark.round === round) lines.push(mark.text);
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, onX(round));
    cursor.setAttribute("visibility", "visible");
    if (from !== null) {
      chosen.setAttribute("x", Math.min(onX(from), onX(round)));
      chosen.setAttribute("width", Math.abs(onX(from) - onX(round)));
      chosen.setAttribute("visibility", "visible");
    }
    showTip(event, [`round ${round}`, ...lines]);
  });
}
