// What all figures are drawn with: elements, text that is measured, ticks that fit, the tip under the pointer.
"use strict";

const FONT_PX = 11;
const pen = document.createElement("canvas").getContext("2d");
pen.font = `${FONT_PX}px system-ui, sans-serif`;

function widthOf(text) {
  return Math.ceil(pen.measureText(text).width) + 2;
}

function shape(tag, attributes = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function part(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function surface(width, height) {
  return shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
}

// The end of a name that is too long is left out.
function cut(text, width) {
  if (widthOf(text) <= width) return text;
  let end = text.length;
  while (end > 1 && widthOf(`${text.slice(0, end)}…`) > width) end -= 1;
  return `${text.slice(0, end)}…`;
}

function digits(value) {
  if (!Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// Round numbers from low to high, at most as many as asked for.
function evenTicks(low, high, most, isWhole = false) {
  const raw = (high - low) / Math.max(1, most) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw * 0.999);
  if (isWhole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

function logTicks(low, high, most) {
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const factor of factors) {
        const value = Number((factor * 10 ** power).toPrecision(2));
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    if (found.length <= most || factors.length === 1) {
      return found.filter((_, index) => index % Math.ceil(found.length / most) === 0);
    }
  }
  return [];
}

// Those of these labels, each with x and text, that do not run into the one before; the last always stays.
function apart(labels, gap = 6) {
  const kept = [];
  const reach = (label) => [label.x - widthOf(label.text) / 2, label.x + widthOf(label.text) / 2];
  for (const label of labels) {
    if (!kept.length || reach(label)[0] >= reach(kept[kept.length - 1])[1] + gap) kept.push(label);
    else if (label === labels[labels.length - 1]) {
      while (kept.length && reach(label)[0] < reach(kept[kept.length - 1])[1] + gap) kept.pop();
      kept.push(label);
    }
  }
  return kept;
}

function legend(items) {
  const line = part("p", "legend");
  for (const { colour, text, dash } of items) {
    const item = part("span");
    const mark = part("i", dash ? "dash" : "");
    mark.style.setProperty("--mark", colour);
    item.append(mark, text);
    line.append(item);
  }
  return line;
}

const tip = part("div", "tip");
tip.hidden = true;

function hideTip() {
  tip.hidden = true;
}

function showTip(event, lines) {
  if (!tip.isConnected) document.body.append(tip);
  tip.replaceChildren(...lines.map((line) => part("div", "", line)));
  tip.hidden = false;
  const x = Math.min(event.pageX + 12, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 4);
  tip.style.left = `${Math.max(scrollX + 4, x)}px`;
  tip.style.top = `${event.pageY + 14}px`;
}
