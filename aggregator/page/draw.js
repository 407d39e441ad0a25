// Draws the figures of charts.py into elements with data-figure, in the ink that the page has, and again when it changes.
"use strict";

function ink() {
  return getComputedStyle(document.body).getPropertyValue("--quiet").trim();
}

// As many labels as there is room for, evenly picked.
function thinned(labels, room) {
  const step = Math.max(1, Math.ceil(labels.length / Math.max(1, room)));
  return labels.filter((_, index) => index % step === 0);
}

function draw(element, figure) {
  const layout = { ...figure.layout, font: { ...figure.layout.font, color: ink() } };
  layout.legend = { ...layout.legend, font: { size: 11 } };
  layout.xaxis = { ...layout.xaxis, nticks: Math.max(3, Math.floor(element.clientWidth / 80)) };
  layout.annotations = thinned(layout.annotations ?? [], Math.floor(element.clientWidth / 80));
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
