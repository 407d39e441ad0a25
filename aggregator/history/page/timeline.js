// Who trained when: a lane a worker. Of many workers only the quickest and the slowest have one, until all are asked for.
"use strict";

const LANE_PX = 16;
const MOST_LANES = 24;
const COLOURS = { folded: "var(--blue)", late: "var(--orange)", outvoted: "var(--orange)", refused: "var(--red)", diverged: "var(--red)" };

// A site may have no update to give for other reasons than NaN, too.
function wordOf(verdict) {
  return verdict === "diverged" ? "no update" : verdict;
}

function colourOf(verdict) {
  return COLOURS[verdict] ?? "var(--grey)";
}

function lanesOf(figure, isWhole) {
  const lanes = figure.lanes.map((name, index) => ({ name, index, seconds: 0, num: 0 }));
  for (const [lane, begin, , arrived] of figure.bars) {
    lanes[lane].seconds += arrived - begin;
    lanes[lane].num += 1;
  }
  if (isWhole || lanes.length <= MOST_LANES) return lanes;
  const bySpeed = [...lanes].sort((a, b) => a.seconds / a.num - b.seconds / b.num);
  const kept = new Set([...bySpeed.slice(0, MOST_LANES / 2), ...bySpeed.slice(-MOST_LANES / 2)]);
  return lanes.filter((lane) => kept.has(lane));
}

function drawTimeline(element, figure) {
  const isWhole = element.dataset.whole === "yes";
  const lanes = lanesOf(figure, isWhole);
  const width = element.clientWidth;
  const left = Math.min(width * 0.3, Math.max(30, ...lanes.map(({ name }) => widthOf(name)))) + 8;
  const [top, right] = [20, width - 14];
  const bottom = top + lanes.length * LANE_PX;
  const onX = (at) => left + (at / (figure.length || 1)) * (right - left);
  const svg = surface(width, bottom + 20);
  const row = new Map(lanes.map(({ index }, place) => [index, top + place * LANE_PX]));
  for (const { name, index } of lanes) {
    svg.append(shape("text", { x: left - 6, y: row.get(index) + 12, "text-anchor": "end" }, cut(name, left - 8)));
  }
  for (const [begin, end] of figure.pauses) {
    const x = (onX(begin) + onX(end)) / 2;
    svg.append(shape("rect", { x: x - 3, y: top, width: 6, height: bottom - top, class: "pause" }));
  }
  for (const [at] of figure.ends) svg.append(shape("line", { x1: onX(at), x2: onX(at), y1: top, y2: bottom, class: "mark" }));
  const labels = apart(figure.ends.map(([at, round]) => ({ x: onX(at), text: String(round) })));
  for (const y of [top - 6, bottom + 14]) {
    for (const { x, text } of labels) svg.append(shape("text", { x, y, "text-anchor": "middle" }, text));
  }
  for (const [lane, begin, trained, arrived, round, verdict] of figure.bars) {
    if (!row.has(lane)) continue;
    const bar = (from, to, wide) => shape("rect", {
      x: onX(from), y: row.get(lane) + (LANE_PX - wide) / 2, width: Math.max(0.5, onX(to) - onX(from)), height: wide, fill: colourOf(verdict),
    });
    const waiting = bar(trained, arrived, LANE_PX * 0.35);
    waiting.setAttribute("opacity", 0.4);
    const training = bar(begin, trained, LANE_PX * 0.7);
    for (const each of [waiting, training]) {
      const seconds = `${digits(trained - begin)} s training, ${digits(arrived - trained)} s under way`;
      each.addEventListener("pointermove", (event) => showTip(event, [figure.lanes[lane], `round ${round}: ${wordOf(verdict)}`, seconds]));
      each.addEventListener("pointerleave", hideTip);
    }
    svg.append(waiting, training);
  }
  element.replaceChildren(timelineHead(element, figure, lanes, isWhole), svg);
}

function timelineHead(element, figure, lanes, isWhole) {
  const verdicts = [...new Set(figure.bars.map((bar) => bar[5]))];
  const items = verdicts.map((verdict) => ({ colour: colourOf(verdict), text: wordOf(verdict) }));
  if (figure.ends.length) items.push({ colour: "var(--quiet)", text: "a round closes", dash: true });
  const pauses = new Set(figure.pauses.map(([, , seconds]) => `${inWords(seconds)} left out`));
  for (const text of [...pauses].slice(0, 3)) items.push({ colour: "var(--pause)", text });
  const line = legend(items);
  if (figure.lanes.length > MOST_LANES) {
    const button = part("button", "scale", isWhole ? "fewer" : `all ${figure.lanes.length}`);
    button.addEventListener("click", () => {
      element.dataset.whole = isWhole ? "" : "yes";
      redraw(element);
    });
    line.append(part("span", "", isWhole ? "" : `the ${lanes.length / 2} quickest and the ${lanes.length / 2} slowest`), button);
  }
  return line;
}

function inWords(seconds) {
  if (seconds < 90) return `${seconds < 1 ? digits(Number(seconds.toPrecision(1))) : Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${digits(Math.round(seconds / 360) / 10)} h`;
}
