// The table of workers: sorted by the column clicked on, folded to both ends of that order if there are many.
"use strict";

const MOST_ROWS = 24;
const order = { title: "worker", isFalling: false, isWhole: false };
const natural = new Intl.Collator(undefined, { numeric: true });

function fixed(value, digits, unit = "") {
  return value === null || value === undefined ? "" : value.toFixed(digits) + unit;
}

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

// [title, class, row => what it is sorted by, row => text]; a column that is empty throughout is left out.
function workerColumns(rows, { states, isOver, metric }) {
  const now = Date.now() / 1000;
  const number = (title, read, digits = 0, unit = "") => [title, "number", read, (row) => fixed(read(row), digits, unit)];
  const measured = (title, key) => number(title, (row) => row.measured?.[key], 4);
  return [
    ["worker", "name", (row) => row.worker ?? "unknown", (row) => row.worker ?? "unknown"],
    ["now", "", (row) => states.get(row.worker), (row) => states.get(row.worker) ?? ""],
    ["last update", "number", (row) => row.last_round, (row) => (isOver ? `round ${row.last_round ?? "–"}` : ago(now - row.last_seen))],
    ...(metric === null ? [] : [measured(metric, "newest"), measured("best", "best"), measured("worst", "worst")]),
    number("folded", (row) => row.num_folded),
    ...(rows.some((row) => row.num_outvoted) ? [number("outvoted", (row) => row.num_outvoted)] : []),
    number("last score", (row) => row.last_score, 3),
    number("late", (row) => row.num_late),
    number("refused", (row) => row.num_refused),
    number("no update", (row) => row.num_diverged),
    ...(rows.some((row) => row.num_unselected) ? [number("not chosen", (row) => row.num_unselected)] : []),
    number("samples", (row) => row.num_samples),
    number("MB", (row) => row.num_bytes / 1e6, 2),
    number("rounds late", (row) => row.mean_staleness, 2),
    number("training", (row) => row.mean_train_s, 2, " s"),
    number("update's norm", (row) => row.mean_norm, 3),
    number("cosine with the mean", (row) => row.mean_cosine, 2),
  ];
}

function compared(a, b) {
  if (a === null || a === undefined || b === null || b === undefined) return (a ?? null) === null ? ((b ?? null) === null ? 0 : 1) : -1;
  return typeof a === "string" ? natural.compare(a, b) : a - b;
}

function showWorkers(table, rows, about) {
  if (!rows.length) {
    table.replaceChildren();
    return;
  }
  const columns = workerColumns(rows, about).filter(([, , , text]) => rows.some((row) => text(row) !== ""));
  const [, , key] = columns.find(([title]) => title === order.title) ?? columns[0];
  const sorted = [...rows].sort((a, b) => compared(key(a), key(b)) * (order.isFalling ? -1 : 1));
  const again = () => showWorkers(table, rows, about);
  const head = part("tr");
  for (const [title, className] of columns) {
    const cell = part("th", className);
    const arrow = title === order.title ? (order.isFalling ? " ↓" : " ↑") : "";
    const button = part("button", "sort", title + arrow);
    button.addEventListener("click", () => {
      order.isFalling = order.title === title ? !order.isFalling : className === "number";
      order.title = title;
      again();
    });
    cell.append(button);
    head.append(cell);
  }
  const lines = sorted.map((row) => {
    const line = part("tr");
    for (const [, className, , text] of columns) line.append(part("td", className, text(row)));
    return line;
  });
  const toggle = () => {
    order.isWhole = !order.isWhole;
    again();
  };
  if (lines.length > MOST_ROWS) fold(lines, columns.length, { at: MOST_ROWS / 2, isWhole: order.isWhole, toggle });
  table.replaceChildren(head, ...lines);
}

// Leaves as many lines as a table shows at first, and a button for the others where they were.
function fold(lines, num_columns, { at, isWhole, toggle }) {
  const cell = part("td", "fold");
  cell.colSpan = num_columns;
  const num = lines.length - MOST_ROWS;
  const button = part("button", "scale", isWhole ? "fewer" : `show ${num} more`);
  button.addEventListener("click", toggle);
  cell.append(button);
  const line = part("tr");
  line.append(cell);
  if (isWhole) lines.push(line);
  else lines.splice(at, num, line);
}
