// Draws the figures into elements with data-figure, for the rounds that the reader chose, and again when the page changes.
"use strict";

const KINDS = { curve: drawCurve, timeline: drawTimeline, map: drawMap };
let figures = {};
let chosen = { newest: Infinity };

function roundsKnown() {
  const curves = Object.values(figures).filter(({ kind }) => kind === "curve");
  const ends = curves.flatMap(({ series }) => series.filter(({ x }) => x.length).map(({ x }) => [x[0], x[x.length - 1]]));
  const map = figures.sites;
  if (map && map.last >= map.first) ends.push([map.first, map.last]);
  return { first: Math.min(...ends.map(([first]) => first)), last: Math.max(...ends.map(([, last]) => last)) };
}

function span() {
  const known = roundsKnown();
  if (chosen.newest !== undefined) return { first: Math.max(known.first, known.last - chosen.newest + 1), last: known.last };
  return { first: Math.max(known.first, Math.min(chosen.first, known.last)), last: Math.min(known.last, chosen.last) };
}

function redraw(element) {
  const figure = figures[element.dataset.figure];
  if (figure && element.clientWidth) KINDS[figure.kind](element, figure, span());
}

function redrawAll() {
  showRoundsChosen();
  for (const element of document.querySelectorAll("[data-figure]")) redraw(element);
}

function drawAll(newFigures) {
  figures = newFigures;
  redrawAll();
}

function chooseRounds(rounds) {
  chosen = rounds;
  hideTip();
  redrawAll();
}

// The control by which rounds are chosen: two numbers, and some usual choices.
function showRoundsChosen() {
  const control = document.getElementById("window");
  const known = roundsKnown();
  if (!control || !(known.last - known.first >= 20)) {
    if (control) control.hidden = true;
    return;
  }
  control.hidden = false;
  if (!control.children.length) buildControl(control);
  const { first, last } = span();
  const [from, to] = control.querySelectorAll("input");
  if (document.activeElement !== from) from.value = first;
  if (document.activeElement !== to) to.value = last;
  for (const button of control.querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.newest === String(chosen.newest));
}

function buildControl(control) {
  const inputs = ["first round shown", "last round shown"].map((label) => {
    const input = part("input");
    Object.assign(input, { type: "number", min: 1, ariaLabel: label });
    input.addEventListener("change", () => {
      const [first, last] = inputs.map((each) => Number(each.value));
      if (first > 0 && last >= first) chooseRounds({ first, last });
    });
    return input;
  });
  const buttons = [["last 20", 20], ["last 100", 100], ["all", Infinity]].map(([text, newest]) => {
    const button = part("button", "scale", text);
    button.dataset.newest = newest;
    button.addEventListener("click", () => chooseRounds({ newest }));
    return button;
  });
  control.append("Rounds ", inputs[0], " to ", inputs[1], " ", ...buttons);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  requestAnimationFrame(redrawAll);
});
