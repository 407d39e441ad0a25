// Draws the figures of charts.py into elements with data-figure, in the ink that the page has, and again when it changes.
"use strict";

const LABEL_PX = 24; // what a slanting line of text takes of the axis
const MARGINS_PX = 120;

function ink() {
  return getComputedStyle(document.body).getPropertyValue("--quiet").trim();
}

// The labels of moments that do not run into each other, on an axis that begins with the first bar.
function apart(labels, bars, width) {
  const begin = Math.min(...bars.flatMap(({ base }) => base ?? []).map(Date.parse));
  const end = Math.max(...labels.map(({ x }) => Date.parse(x)));
  let free = -Infinity;
  return labels.filter(({ x }) => {
    const at = ((Date.parse(x) - begin) / (end - begin)) * width;
    const fits = !(at < free);
    if (fits) free = at + LABEL_PX;
    return fits;
  });
}

function draw(element, figure) {
  const layout = { ...figure.layout, font: { ...figure.layout.font, color: ink() } };
  layout.legend = { ...layout.legend, font: { size: 11 } };
  layout.xaxis = { ...layout.xaxis, nticks: Math.max(3, Math.floor(element.clientWidth / 80)) };
  layout.annotations = apart(layout.annotations ?? [], figure.data, element.clientWidth - MARGINS_PX);
  element.style.height = `${layout.height}px`;
  return Plotly.react(element, figure.data, layout, { displayModeBar: false, responsive: true });
}

function drawAll(figures) {
  for (const element of document.querySelectorAll("[data-figure]")) {
    const figure = figures[element.dataset.figure];
    if (figure) draw(element, figure);
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const element of document.querySelectorAll("[data-figure]")) {
    if (element.data) Plotly.relayout(element, { "font.color": ink() });
  }
});
