// Draws the figures of charts.py into elements with data-figure, in the ink that the page has, and again when it changes.
"use strict";

function ink() {
  return getComputedStyle(document.body).getPropertyValue("--quiet").trim();
}

function draw(element, figure) {
  const layout = { ...figure.layout, font: { ...figure.layout.font, color: ink() } };
  layout.legend = { ...layout.legend, font: { size: 11 } };
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
