// Follows a run: each message of the event stream has all that the page shows. What workers say is set as text, never as HTML.
"use strict";

const by = (id) => document.getElementById(id);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fixed(value, digits, unit = "") {
  return value === null || value === undefined ? "" : value.toFixed(digits) + unit;
}

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

// columns: [title, className, row => text]
function fill(table, columns, rows) {
  const head = element("tr");
  for (const [title, className] of columns) head.append(element("th", title, className));
  const lines = rows.map((row) => {
    const line = element("tr");
    for (const [, className, text] of columns) line.append(element("td", text(row), className));
    return line;
  });
  table.replaceChildren(head, ...lines);
}

function showTiles(tiles) {
  by("tiles").replaceChildren(...tiles.map(([value, label]) => {
    const tile = element("div", undefined, "tile");
    tile.append(element("b", value), element("span", label));
    return tile;
  }));
}

function showCurves(names) {
  const curves = by("curves");
  const shown = [...curves.querySelectorAll("[data-figure]")].map((figure) => figure.dataset.figure);
  if (shown.join() === names.map((name) => `curve ${name}`).join()) return;
  curves.replaceChildren(...names.map((name) => {
    const card = element("div", undefined, "card");
    const figure = element("div", undefined, "figure");
    figure.dataset.figure = `curve ${name}`;
    card.append(element("h2", name), figure);
    return card;
  }));
}

function showComparison(comparison) {
  by("comparison").hidden = !comparison;
  if (!comparison) return;
  const columns = [["", "", (row) => row[0]], ...comparison.names.map((name, index) => [name, "number", (row) => row[1][index]])];
  fill(by("comparison").querySelector("table"), columns, comparison.rows);
}

function showOpenRound(data) {
  const open = data.open_round, live = data.live;
  by("open").hidden = !open;
  if (!open) return;
  by("open-title").textContent = `Round ${open.round}${data.num_rounds ? ` of ${data.num_rounds}` : ""} is open`;
  const folded = live ? live.num_folded : open.num_folded;
  const wanted = live ? live.target : null;
  const notes = [wanted ? `${folded} of ${wanted} updates` : `${folded} updates committed`];
  if (live && live.deadline_in_s !== null) notes.push(`deadline in ${Math.max(0, Math.round(live.deadline_in_s))} s`);
  if (live) notes.push(`${live.num_present} workers present`, `${live.num_waiting} messages wait`);
  if (live && live.num_dead) notes.push(`${live.num_dead} set aside`);
  if (open.num_late) notes.push(`${open.num_late} late`);
  if (live && live.signed_by) notes.push(`signed by ${live.signed_by}`, `updates ${live.protection.join(" and ")}`);
  by("open-note").textContent = notes.join(" · ");
  by("objections").textContent = (live?.objections ?? [])
    .map((each) => `${each.worker} does not answer: ${each.objection}`).join("\n");
  by("open-progress").value = data.num_rounds ? (open.round - 1 + (wanted ? Math.min(1, folded / wanted) : 0)) / data.num_rounds : 0;
}

function showWorkers(data) {
  const states = new Map((data.live ? data.live.workers : []).map((worker) => [worker.name, worker.state]));
  const now = Date.now() / 1000;
  fill(by("workers"), [
    ["worker", "name", (row) => row.worker ?? "unknown"],
    ["now", "", (row) => states.get(row.worker) ?? ""],
    ["last update", "number", (row) => (data.stopped ? `round ${row.last_round ?? "–"}` : ago(now - row.last_seen))],
    ["folded", "number", (row) => row.num_folded],
    ["late", "number", (row) => row.num_late],
    ["refused", "number", (row) => row.num_refused],
    ["samples", "number", (row) => row.num_samples],
    ["MB", "number", (row) => fixed(row.num_bytes / 1e6, 2)],
    ["rounds late", "number", (row) => fixed(row.mean_staleness, 2)],
    ["training", "number", (row) => fixed(row.mean_train_s, 2, " s")],
  ], data.workers);
  by("more-workers").hidden = !data.num_more_workers;
  by("more-workers").textContent = `and ${data.num_more_workers} more; all are in updates.csv`;
}

function showRounds(data) {
  by("rounds-card").hidden = !data.rounds.length;
  fill(by("rounds"), [
    ["round", "number", (row) => row.round],
    ["closed by", "", (row) => row.closed_by],
    ["folded", "number", (row) => row.num_folded],
    ["late", "number", (row) => row.num_late],
    ["refused", "number", (row) => row.num_refused],
    ["seconds", "number", (row) => fixed(row.seconds, 2)],
    ["SHA-256 of the model", "digest", (row) => row.model_sha256],
  ], [...data.rounds].reverse());
}

function showRefused(refused) {
  by("none-refused").hidden = refused.length > 0;
  by("refused").hidden = refused.length === 0;
  fill(by("refused"), [
    ["round", "number", (row) => row.round],
    ["worker", "name", (row) => row.worker ?? "unknown"],
    ["reason", "", (row) => row.reason],
  ], refused);
}

function showSettings(settings) {
  const entries = Object.entries(settings);
  by("settings-card").hidden = !entries.length;
  by("settings").replaceChildren(...entries.flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]));
}

function showDownloads(data) {
  const wanted = ["rounds.csv", "updates.csv", ...(data.stopped ? ["summary.json", "report.html"] : [])];
  wanted.push(...data.models.map((model) => `models/${model}.safetensors`));
  const links = [...by("downloads").children].map((link) => link.getAttribute("href"));
  if (links.join() === wanted.join()) return;
  by("downloads").replaceChildren(...wanted.map((href) => {
    const link = element("a", href.replace("models/", ""));
    link.href = href;
    if (href !== "report.html") link.download = "";
    return link;
  }));
}

function showState(text, className = "") {
  by("state").textContent = text;
  by("state").className = `badge ${className}`;
}

function show(data) {
  if (data.waiting_for) {
    showState("waiting for the first round");
    by("about").textContent = data.waiting_for;
    return;
  }
  by("title").textContent = data.title;
  by("about").textContent = `run ${data.run.run_id} · task ${data.run.task} · queue ${data.run.queue}${data.stopped ? ` · ${data.stopped}` : ""}`;
  showState(data.stopped ? "finished" : "running", data.stopped ? "" : "running");
  showOpenRound(data);
  showTiles(data.tiles);
  showCurves(data.curves);
  showComparison(data.comparison);
  by("timeline").hidden = !data.timeline_rounds;
  if (data.timeline_rounds) by("timeline-rounds").textContent = `(rounds ${data.timeline_rounds[0]} to ${data.timeline_rounds[1]}; UTC, by the workers' clocks)`;
  by("contributions").hidden = !data.workers.length;
  showWorkers(data);
  showRounds(data);
  showRefused(data.refused);
  showSettings(data.settings);
  showDownloads(data);
  drawAll(data.figures);
}

const events = new EventSource("events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => showState("the page's server is away; trying again", "lost");
