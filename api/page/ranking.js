// ---- Drawing: the ranking ----------------------------------------------------------------------------------------------

let drawn = { query: null, ranks: new Map() };

function mark(node, text, title) {
  show(node, Boolean(text));
  put(node, text ?? "");
  if (title) node.title = title;
}

/** The request behind what is shown, to open or to copy. */
function link(node, entry) {
  show(node, Boolean(entry?.path));
  if (entry?.path) node.href = address(entry.path, entry.parameters);
}

function drawRanking() {
  const asked = bounds(), entry = seen.ranking, answer = entry?.answer, table = at("ranking");
  drawEmpty(asked, entry);
  show(table, Boolean(answer?.ad_ids?.length));
  const from = parseMinute(answer?.from), to = parseMinute(answer?.to);
  put(at("ranking-range"), answer ? `${range(from, to, nowMinute())} · ${span(to - from)}` : "");
  link(at("ranking-json"), entry);
  mark(at("ranking-mark"), answer && (!answer.exact ? "approximate" : !answer.complete ? "not complete" : ""));
  const notes = [];
  if (answer && !answer.complete) notes.push(incomplete(answer.complete_until, asked));
  if (answer && !answer.exact) notes.push(`Approximate: ${answer.bound == null ? "an ad that is not listed may belong here" : `an ad that is not listed may have up to ${plural(answer.bound, "click")}`}.`);
  if (!answer?.ad_ids?.length) {
    put(at("ranking-note"), notes.join(" "));
    return;
  }

  const before = seen.before?.answer?.complete && seen.before.answer.exact !== false ? seen.before.answer : null;
  const earlier = new Map((before?.ad_ids ?? []).map((ad, i) => [ad, { rank: i + 1, count: before.counts[i] }]));
  const length = to - from, previous = `the ${span(length)} before`;
  notes.push(before ? `Move and change against ${previous} (${range(from - length, from, nowMinute())}).` : `Nothing complete in ${previous} to compare with.`);
  put(at("ranking-note"), notes.join(" "));

  const body = table.tBodies[0], focused = document.activeElement;
  const old = new Map([...body.rows].map((row) => [row.dataset.ad, row]));
  const chosen = chosenAd(), top = answer.counts[0] || 1, ranks = new Map();
  const rows = answer.ad_ids.map((ad, i) => {
    const row = old.get(ad) ?? newRow(ad);
    const count = answer.counts[i], was = earlier.get(ad), cells = row.cells;
    ranks.set(ad, i + 1);
    put(cells[0], i + 1);
    const moved = !before ? ["–", "", "not known"] : !was ? ["new", "new", "new"]
      : was.rank > i + 1 ? [`▲${was.rank - i - 1}`, "up", `up ${was.rank - i - 1}`]
      : was.rank < i + 1 ? [`▼${i + 1 - was.rank}`, "fall", `down ${i + 1 - was.rank}`] : ["=", "muted", "same"];
    cells[1].firstElementChild.className = moved[1];
    put(cells[1].firstElementChild, moved[0]);
    put(cells[1].lastElementChild, moved[2]);
    cells[3].firstElementChild.style.setProperty("--part", `${(100 * count / top).toFixed(2)}%`);
    put(cells[3].querySelector("b"), number(count));
    const change = was ? 100 * (count - was.count) / was.count : null;
    put(cells[4], change === null ? "–" : Math.abs(change) < 0.05 ? "0%" : Math.abs(change) >= 1000 ? `${change > 0 ? "+" : "−"}${number(Math.abs(change))}%` : `${change > 0 ? "+" : "−"}${Math.abs(change).toFixed(Math.abs(change) < 10 ? 1 : 0)}%`);
    row.classList.toggle("chosen", ad === chosen);
    const button = cells[2].firstElementChild;
    button.setAttribute("aria-pressed", String(ad === chosen));
    row.classList.toggle("moved", drawn.query === moveKey(entry) && drawn.ranks.has(ad) && drawn.ranks.get(ad) !== i + 1 && drawn.key !== entry.key);
    return row;
  });
  if (rows.length !== body.rows.length || rows.some((row, i) => body.rows[i] !== row)) {
    body.replaceChildren(...rows);
    if (focused?.isConnected && document.activeElement !== focused && table.contains(focused)) focused.focus({ preventScroll: true });
  }
  // One stop for the Tab key; the arrow keys go through the rows.
  const stop = body.contains(document.activeElement) ? document.activeElement : (body.querySelector(".chosen button") ?? body.querySelector("button"));
  for (const button of body.querySelectorAll("button")) button.tabIndex = button === stop ? 0 : -1;
  if (drawn.key !== entry.key) drawn = { key: entry.key, query: moveKey(entry), ranks };
  swap(at("known"), answer.ad_ids.slice(0, 100).map((ad) => make("option", { value: ad })));
}

/** Rows are compared from one refresh to the next only where the question was the same. */
const moveKey = (entry) => JSON.stringify([view.filter, view.range, entry.parameters.n]);

function newRow(ad) {
  const row = make("tr", {}, make("td", { class: "rank" }), make("td", {}, make("span", { "aria-hidden": "true" }), make("span", { class: "sr" })),
    make("td", { class: "name" }, make("button", { type: "button", tabindex: -1, title: visible(ad), "aria-pressed": "false" }, visible(ad))),
    make("td", {}, make("span", { class: "meter" }, make("i", { "aria-hidden": "true" }), make("b", {}))), make("td", { class: "change r muted" }));
  row.dataset.ad = ad;
  return row;
}

function incomplete(until, asked) {
  const minute = parseMinute(until ?? seen.status.complete_until);
  if (minute === null || !asked) return "Not complete: more clicks may come.";
  if (minute <= asked.from) return "Not complete: the figures of this range are not all there (not yet, or no longer).";
  return minute < asked.to ? `Not complete: figures from ${range(minute, asked.to, nowMinute())} may still grow.` : "Not complete: part of the range was before the filter or the pipeline began.";
}

/** The API did not answer since the page was opened. */
function drawNothing() {
  show(at("ranking"), false);
  show(at("ranking-empty"), true);
  swap(at("ranking-empty"), [make("h3", {}, "No figures"), make("p", {}, "The API has given none since this page was opened. Is clickmill running? The figures appear here by themselves as soon as it answers.")]);
}

function drawEmpty(asked, entry) {
  const node = at("ranking-empty"), { status } = seen, books = status.books ?? {};
  let content = null;
  if (entry?.refused) content = ["This cannot be shown", [entry.refused]];
  else if (!asked && !(books.lines > 0)) {
    const watcher = (status.stages ?? []).find((stage) => stage.name === "log-watcher");
    content = ["No clicks yet", ["clickmill has not read a log line. Point it at your logs, or try it with generated traffic:",
      make("pre", { class: "mono" }, "clickmill up --logs '/var/log/ads/*.log'\nclickmill up --demo"), "A line looks like this:",
      make("pre", { class: "mono" }, "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA"),
      watcher?.detail ? `The log watcher says: ${visible(watcher.detail)}` : null]];
  } else if (!asked && books.rejected === books.lines) {
    content = ["No line was a click", [`${plural(books.lines, "line")} read, and every one rejected.`, make("button", { class: "button", type: "button", "data-show": "rejected" }, "See the reasons")]];
  } else if (!asked) content = ["Counting; no minute is complete yet", [`${plural(books.lines, "line")} read so far. A minute appears here as soon as the watermark has passed its end, usually half a minute later.`]];
  else if (entry?.answer && !entry.answer.ad_ids.length && books.lines > 0 && books.late === books.lines) {
    content = ["Every click was late", [`${plural(books.lines, "line")} read, and each came after its minute was closed. A recalculation of their minutes counts them.`, make("button", { class: "button", type: "button", "data-show": "late" }, "See examples")]];
  } else if (entry?.answer && !entry.answer.ad_ids.length) {
    content = entry.answer.complete ? ["Nothing was clicked", ["No ad has a click in this range under this filter."]]
      : ["No figures here", ["This range is not complete, and no click of it is there. Choose another range, or filter 0."]];
  }
  show(node, content !== null);
  if (content) swap(node, [make("h3", {}, content[0]), ...content[1].filter(Boolean).map((part) => typeof part === "string" ? make("p", {}, part) : part)]);
}

