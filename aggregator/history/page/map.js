// Sites and rounds as a map: what became of each update, or how good the received model was at the site.
"use strict";

const MOST_MAP_PX = 600;
const MARKS = { f: ["folded", "--folded"], l: ["late", "--orange"], r: ["refused", "--red"], n: ["no update", "--red"], o: ["outvoted", "--orange"], u: ["not chosen", "--orange"], d: ["duplicate", "--grey"], a: ["taken back", "--grey"] };
const LEVELS = 63;

function colourFrom(name) {
  return getComputedStyle(document.body).getPropertyValue(name).trim();
}

function rgb(name) {
  const value = colourFrom(name);
  return [1, 3, 5].map((at) => parseInt(value.slice(at, at + 2), 16));
}

function drawMap(element, figure, span) {
  const isLevels = element.dataset.shown === "levels" && figure.metric !== null;
  const first = Math.max(figure.first, span.first);
  const last = Math.min(figure.last, span.last);
  const num = Math.max(0, last - first + 1);
  if (!num || !figure.names.length) {
    element.replaceChildren(part("p", "quiet", "No updates in these rounds."));
    return;
  }
  const width = element.clientWidth;
  const laneHeight = Math.max(3, Math.min(16, Math.floor(MOST_MAP_PX / figure.names.length)));
  const left = Math.round(Math.min(width * 0.3, Math.max(30, ...figure.names.map(widthOf)))) + 8;
  const [top, right] = [4, width - 14];
  const bottom = top + laneHeight * figure.names.length;
  const svg = surface(width, bottom + 20);
  const everyLane = Math.ceil((FONT_PX + 3) / laneHeight);
  figure.names.forEach((name, lane) => {
    if (lane % everyLane) return;
    const y = Math.max(top + 8, top + lane * laneHeight + laneHeight / 2 + 4);
    svg.append(shape("text", { x: left - 6, y, "text-anchor": "end" }, cut(name, left - 8)));
  });
  const onX = (round) => left + ((round - first + 0.5) / num) * (right - left);
  const rounds = evenTicks(first, last, Math.max(2, Math.floor((right - left) / 70)), true);
  for (const { x, text } of apart(rounds.map((round) => ({ x: onX(round), text: String(round) })), 10)) {
    svg.append(shape("text", { x: Math.min(x, right + 12 - widthOf(text) / 2), y: bottom + 15, "text-anchor": "middle" }, text));
  }
  const canvas = part("canvas", "map");
  const pixels = Math.max(1, Math.round((right - left) * devicePixelRatio));
  Object.assign(canvas, { width: pixels, height: figure.names.length });
  Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
  paint(canvas, isLevels ? figure.levels : figure.marks, isLevels ? levelColour() : markColour(), first - figure.first, num);
  const box = part("div", "holds-map");
  box.append(svg, canvas);
  canvas.addEventListener("pointermove", (event) => {
    const at = canvas.getBoundingClientRect();
    const lane = Math.min(figure.names.length - 1, Math.max(0, Math.floor(((event.clientY - at.top) / at.height) * figure.names.length)));
    const round = first + Math.min(num - 1, Math.max(0, Math.floor(((event.clientX - at.left) / at.width) * num)));
    showTip(event, [figure.names[lane], ...cellWords(figure, lane, round)]);
  });
  canvas.addEventListener("pointerleave", hideTip);
  element.replaceChildren(mapHead(element, figure, isLevels), box);
}

// Where several rounds share a pixel, the last of the letters that are more urgent than "folded" is seen.
function paint(canvas, rows, colour, skip, num) {
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height);
  rows.forEach((row, lane) => {
    for (let x = 0; x < canvas.width; x += 1) {
      const from = skip + Math.floor((x / canvas.width) * num);
      const to = Math.max(from + 1, skip + Math.floor(((x + 1) / canvas.width) * num));
      let letter = row[from];
      for (let at = from + 1; at < to; at += 1) if (row[at] !== "f" && row[at] !== " ") letter = row[at];
      const found = colour(letter);
      if (found) image.data.set([...found, 255], 4 * (lane * canvas.width + x));
    }
  });
  pen.putImageData(image, 0, 0);
}

function markColour() {
  const colours = Object.fromEntries(Object.entries(MARKS).map(([letter, [, name]]) => [letter, rgb(name)]));
  return (letter) => colours[letter];
}

function levelColour() {
  const [bad, good] = [rgb("--low"), rgb("--high")];
  return (letter) => {
    if (letter === " " || letter === undefined) return undefined;
    const share = (letter.charCodeAt(0) - 48) / LEVELS;
    return bad.map((value, index) => Math.round(value + (good[index] - value) * share));
  };
}

function cellWords(figure, lane, round) {
  const at = round - figure.first;
  const words = [`round ${round}: ${MARKS[figure.marks[lane][at]]?.[0] ?? "nothing"}`];
  const level = figure.levels[lane]?.[at] ?? " ";
  if (level !== " ") {
    const value = figure.low + ((level.charCodeAt(0) - 48) / LEVELS) * (figure.high - figure.low);
    words.push(`${figure.metric} about ${digits(Number(value.toPrecision(3)))}`);
  }
  return words;
}

function mapHead(element, figure, isLevels) {
  const seen = new Set(figure.marks.join(""));
  const items = isLevels
    ? [{ colour: "var(--low)", text: digits(figure.low) }, { colour: "var(--high)", text: digits(figure.high) }]
    : Object.entries(MARKS).filter(([letter]) => seen.has(letter)).map(([, [text, name]]) => ({ colour: `var(${name})`, text }));
  const line = legend(items);
  if (figure.metric !== null) {
    const button = part("button", "scale", isLevels ? "answers" : `${figure.metric} at the sites`);
    button.addEventListener("click", () => {
      element.dataset.shown = isLevels ? "marks" : "levels";
      redraw(element);
    });
    line.append(button);
  }
  return line;
}
