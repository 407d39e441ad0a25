// The statistics of all sites' samples: a row with a histogram for each feature, and the counts of labels. Many are folded.
"use strict";

const HISTOGRAM = { width: 128, height: 30 };
const unfolded = new Set();

function counted(value) {
  return value === null || value === undefined ? "" : value.toLocaleString("en");
}

function drawHistogram({ name, count, histogram }) {
  const { width, height } = HISTOGRAM;
  const svg = surface(width, height);
  if (!histogram) return svg;
  const { low, high, counts, num_bins: numBins, bins_a_bar: size } = histogram;
  const bars = counts.map((number, index) => {
    const [begin, end] = [index * size, Math.min(numBins, (index + 1) * size)];
    return { begin: begin / numBins, end: end / numBins, number, density: number / (end - begin) };
  });
  const most = Math.max(...bars.map(({ density }) => density)) || 1;
  for (const { begin, end, density } of bars) {
    const tall = density ? Math.max(1, (density / most) * (height - 2)) : 0;
    svg.append(shape("rect", { x: begin * width, y: height - 1 - tall, width: Math.max(0.5, (end - begin) * width - 0.5), height: tall, class: "bar" }));
  }
  svg.append(shape("line", { x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5, class: "grid" }));
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("pointermove", (event) => {
    const { left } = svg.getBoundingClientRect();
    const at = Math.min(0.999, Math.max(0, (event.clientX - left) / width));
    const bar = bars.find(({ end }) => at < end) ?? bars[bars.length - 1];
    const edge = (share) => digits(low + share * (high - low));
    const beyond = [["below", histogram.below], ["above", histogram.above]].filter(([, number]) => number);
    showTip(event, [
      name,
      `${edge(bar.begin)} to ${edge(bar.end)}: ${counted(bar.number)} of ${counted(count)}`,
      ...beyond.map(([side, number]) => `${counted(number)} ${side} ${digits(side === "below" ? low : high)}`),
    ]);
  });
  return svg;
}

// columns: [title, class, row => text or element]
function foldedTable(id, columns, rows, again) {
  const table = part("table", id);
  const head = part("tr");
  for (const [title, className] of columns) head.append(part("th", className, title));
  const lines = rows.map((row) => {
    const line = part("tr");
    for (const [, className, read] of columns) {
      const cell = part("td", className);
      cell.append(read(row));
      line.append(cell);
    }
    return line;
  });
  const toggle = () => {
    if (!unfolded.delete(id)) unfolded.add(id);
    again();
  };
  if (lines.length > MOST_ROWS) fold(lines, columns.length, { at: MOST_ROWS, isWhole: unfolded.has(id), toggle });
  table.append(head, ...lines);
  const wide = part("div", "wide");
  wide.append(table);
  return wide;
}

function featureColumns({ features, levels }) {
  const number = (title, read, text = digits) => [title, "number", (row) => text(read(row) ?? NaN)];
  const whole = (title, read) => number(title, read, counted);
  return [
    ["feature", "name", (row) => row.name],
    ["values", "histogram", drawHistogram],
    whole("count", (row) => row.count),
    ...(features.some((row) => row.missing) ? [whole("missing", (row) => row.missing)] : []),
    number("mean", (row) => row.mean),
    number("std", (row) => row.std),
    number("min", (row) => row.min),
    ...levels.map((level, index) => number(level === 0.5 ? "median" : `${level * 100} %`, (row) => row.quantiles[index])),
    number("max", (row) => row.max),
  ];
}

function labelColumns({ labels, num_labelled: total }) {
  const most = Math.max(...labels.map(({ number }) => number)) || 1;
  const bar = ({ number }) => {
    const svg = surface(HISTOGRAM.width, 12);
    svg.append(shape("rect", { x: 0, y: 1, width: (number / most) * HISTOGRAM.width, height: 10, class: "bar" }));
    return svg;
  };
  return [
    ["label", "number", ({ label }) => String(label)],
    ["samples", "number", ({ number }) => counted(number)],
    ["share", "number", ({ number }) => (total ? `${((100 * number) / total).toFixed(1)} %` : "")],
    ["", "histogram", bar],
  ];
}

function aboutStatistics({ num_samples: samples, num_sites: sites, min_samples: fewest, suppress_below: least, sha256 }) {
  const said = [`${counted(samples)} samples at ${counted(sites)} sites`];
  if (fewest > 1) said.push(`of sites with at least ${fewest}`);
  if (least > 0) said.push(`sites withheld counts below ${least}`);
  said.push(`SHA-256 of what tasks are told of them: ${sha256}`);
  return part("p", "quiet digest", said.join(" · "));
}

function showStatistics(section, statistics) {
  section.hidden = !statistics;
  if (!statistics) return;
  const again = () => showStatistics(section, statistics);
  const shown = [part("h2", "", "Statistics of all sites' samples"), aboutStatistics(statistics)];
  const left = (number, what) => {
    if (number) shown.push(part("p", "quiet", `and ${counted(number)} more ${what}; all are in statistics.json`));
  };
  shown.push(foldedTable("features", featureColumns(statistics), statistics.features, again));
  left(statistics.num_more_features, "features");
  if (statistics.labels.length) {
    const labels = statistics.labels.map((number, label) => ({ label, number }));
    shown.push(part("h2", "", "Labels"), foldedTable("labels", labelColumns({ ...statistics, labels }), labels, again));
    left(statistics.num_more_labels, "labels");
  }
  if (statistics.unlabelled) shown.push(part("p", "quiet", `${counted(statistics.unlabelled)} samples without a label that was counted`));
  section.replaceChildren(...shown);
}
