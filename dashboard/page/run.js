// Follows a run: each message of the event stream has all that the page shows. What workers say is set as text, never as HTML.
"use strict";

const by = (id) => document.getElementById(id);

// columns: [title, className, row => text]
function fill(table, columns, rows) {
  const head = part("tr");
  for (const [title, className] of columns) head.append(part("th", className, title));
  const lines = rows.map((row) => {
    const line = part("tr");
    for (const [, className, text] of columns) line.append(part("td", className, text(row)));
    return line;
  });
  table.replaceChildren(head, ...lines);
}

function showTiles(tiles) {
  by("tiles").replaceChildren(...tiles.map(([value, label]) => {
    const tile = part("div", "tile");
    tile.append(part("b", "", value), part("span", "", label));
    return tile;
  }));
}

function showCurves(names) {
  const curves = by("curves");
  const shown = [...curves.querySelectorAll("[data-figure]")].map((figure) => figure.dataset.figure);
  if (shown.join() === names.map((name) => `curve ${name}`).join()) return;
  curves.replaceChildren(...names.map((name) => {
    const card = part("div", "card");
    const figure = part("div", "figure");
    figure.dataset.figure = `curve ${name}`;
    card.append(part("h2", "", name), figure);
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
  if (live) notes.push(`${live.num_present} workers present${live.num_chosen === null ? "" : `, ${live.num_chosen} chosen`}`, `${live.num_waiting} messages wait`);
  if (live && live.num_dead) notes.push(`${live.num_dead} set aside`);
  if (open.num_late) notes.push(`${open.num_late} late`);
  if (live && live.signed_by) notes.push(`signed by ${live.signed_by}`, `updates ${live.protection.join(" and ")}`);
  by("open-note").textContent = notes.join(" · ");
  by("objections").textContent = (live?.objections ?? [])
    .map((each) => `${each.worker} does not answer: ${each.objection}`).join("\n");
  by("open-progress").value = data.num_rounds ? (open.round - 1 + (wanted ? Math.min(1, folded / wanted) : 0)) / data.num_rounds : 0;
}

function showAllWorkers(data) {
  const states = new Map((data.live ? data.live.workers : []).map((worker) => [worker.name, worker.state]));
  by("contributions").hidden = !data.workers.length;
  showWorkers(by("workers"), data.workers, { states, isOver: Boolean(data.stopped), metric: data.metric });
  by("more-workers").hidden = !data.num_more_workers;
  by("more-workers").textContent = `and ${data.num_more_workers} more; all are in updates.csv`;
}

function ofChosen(number) {
  return number === null ? "" : ` of ${number} chosen`;
}

function showRounds(data) {
  by("rounds-card").hidden = !data.rounds.length;
  fill(by("rounds"), [
    ["round", "number", (row) => row.round],
    ["closed by", "", (row) => row.closed_by],
    ["folded", "number", (row) => row.num_folded + ofChosen(row.num_chosen)],
    ["late", "number", (row) => row.num_late],
    ["refused", "number", (row) => row.num_refused],
    ["seconds", "number", (row) => fixed(row.seconds, 2)],
    ["SHA-256 of the model", "digest", (row) => row.model_sha256],
  ], [...data.rounds].reverse());
}

function showChanges(changes) {
  by("changes").hidden = !changes.length;
  fill(by("changes").querySelector("table"), [
    ["round", "number", (row) => row.round],
    ["change", "name", (row) => row.text],
  ], changes);
}

const REASONS = [
  ["round", "number", (row) => row.round],
  ["worker", "name", (row) => row.worker ?? "unknown"],
  ["reason", "", (row) => row.reason],
];

function showWithoutUpdate(rows) {
  by("without-update").hidden = !rows.length;
  fill(by("without-update").querySelector("table"), REASONS, rows);
}

function showRefused(refused) {
  by("none-refused").hidden = refused.length > 0;
  by("refused").hidden = refused.length === 0;
  fill(by("refused"), REASONS, refused);
}

function showSettings(settings) {
  const entries = Object.entries(settings);
  by("settings-card").hidden = !entries.length;
  by("settings").replaceChildren(...entries.flatMap(([name, value]) => [part("dt", "", name), part("dd", "", String(value))]));
}

function toldText({ statistics_sha256: sha256 }) {
  return sha256 ? ` · told statistics ${sha256.slice(0, 12)}` : "";
}

function showDownloads(data) {
  const wanted = ["rounds.csv", "updates.csv", "run.json", ...(data.stopped ? ["summary.json", "report.html"] : []), ...(data.statistics ? ["statistics.json"] : [])];
  wanted.push(...data.models.map((model) => `models/${model}.safetensors`));
  const links = [...by("downloads").children].map((link) => link.getAttribute("href"));
  if (links.join() === wanted.join()) return;
  by("downloads").replaceChildren(...wanted.map((href) => {
    const link = part("a", "", href.replace("models/", ""));
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
  by("about").textContent = `run ${data.run.run_id} · task ${data.run.task} · queue ${data.run.queue}${data.stopped ? ` · ${data.stopped}` : ""}${toldText(data.settings)}`;
  showState(data.stopped ? "finished" : "running", data.stopped ? "" : "running");
  showOpenRound(data);
  showTiles(data.tiles);
  showStatistics(by("statistics"), data.statistics);
  showCurves(data.curves);
  showComparison(data.comparison);
  by("timeline").hidden = !data.num_closed || !data.tells_of_sites;
  by("sites").hidden = !data.num_closed || !data.figures.sites;
  showAllWorkers(data);
  showRounds(data);
  showChanges(data.changes);
  showWithoutUpdate(data.without_update);
  showRefused(data.refused);
  showSettings(data.settings);
  showDownloads(data);
  shown = data;
  drawBoth();
}

// This run's figures, with the curves of the other run that the reader chose over them.
function drawBoth() {
  const figures = { ...shown.figures };
  for (const [name, figure] of Object.entries(beside?.figures ?? {})) {
    if (figure.kind !== "curve" || !figures[name]) continue;
    const theirs = figure.series.map((each) => ({ ...each, name: `${beside.title}: ${each.name}`, dash: true }));
    figures[name] = { ...figures[name], series: [...figures[name].series, ...theirs] };
  }
  showDifferences();
  drawAll(figures);
}

function showDifferences() {
  by("settings-differ").hidden = !beside;
  if (!beside) return;
  const names = [...new Set([...Object.keys(shown.settings), ...Object.keys(beside.settings)])];
  const text = (value) => (value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
  const rows = names.map((name) => [name, text(shown.settings[name]), text(beside.settings[name])]).filter(([, own, theirs]) => own !== theirs);
  const columns = ["setting", shown.title, beside.title].map((title, index) => [title, "name", (row) => row[index]]);
  fill(by("settings-differ").querySelector("table"), columns, rows);
}

let shown = null;
let beside = null;
by("other")?.addEventListener("change", async (event) => {
  const name = event.target.value;
  const answer = name ? await fetch(`../${encodeURIComponent(name)}/run.json`) : null;
  beside = answer?.ok ? await answer.json() : null;
  if (shown) drawBoth();
});

const events = new EventSource("events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => showState("the page's server is away; trying again", "lost");
