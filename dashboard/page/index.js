// The list of runs, looked at again every two seconds. A first run is shown by itself.
"use strict";

const LOOK_EVERY_MS = 2000;

function cell(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function line(run) {
  const made = document.createElement("tr");
  const name = cell("td", "name", "");
  const link = cell("a", "", run.name);
  link.href = `run/${encodeURIComponent(run.folder)}/`;
  name.append(link);
  const best = run.best ? `${run.best.named} ${Number(run.best.value.toPrecision(4))}, round ${run.best.round}` : "";
  const changed = new Date(run.changed_at * 1000).toISOString().slice(0, 19).replace("T", " ");
  made.append(
    name,
    cell("td", "", run.name === run.folder ? "" : run.folder),
    cell("td", "", run.reason ?? run.state),
    cell("td", "number", run.of ? `${run.rounds} of ${run.of}` : run.rounds),
    cell("td", "", best),
    cell("td", "number", `${changed} UTC`),
  );
  return made;
}

function show(runs) {
  const head = document.createElement("tr");
  const columns = [["run", ""], ["folder", ""], ["state", ""], ["rounds", "number"], ["best", ""], ["last change", "number"]];
  head.append(...columns.map(([title, className]) => cell("th", className, title)));
  document.getElementById("runs").replaceChildren(...(runs.length ? [head, ...runs.map(line)] : []));
  document.getElementById("none").hidden = runs.length > 0;
}

let wasEmpty = false;

async function look() {
  try {
    const runs = await (await fetch("runs.json")).json();
    if (wasEmpty && runs.length === 1) location.replace(`run/${encodeURIComponent(runs[0].folder)}/`);
    wasEmpty = runs.length === 0;
    show(runs);
  } catch {
    // the server is away; the next look may find it again
  }
  setTimeout(look, LOOK_EVERY_MS);
}

look();
