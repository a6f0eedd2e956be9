// ---- Drawing: status ---------------------------------------------------------------------------------------------------

const nowMinute = () => floor((Date.parse(seen.status?.now) || Date.now()) / 60_000, 1);

/** How far the data is behind the clock, in seconds; by the complete minutes where this API cannot see the watermark. */
function delay(status) {
  if (Number.isFinite(status.delay_seconds)) return status.delay_seconds;
  const until = parseMinute(status.complete_until);
  return until === null ? null : (Date.parse(status.now) - until * 60_000) / 1000;
}

/** The share of the lines of the last seconds that were late, or rejected. */
function share(name) {
  const first = seen.lines[0], last = seen.lines.at(-1);
  return first && last.lines > first.lines ? (last[name] - first[name]) / (last.lines - first.lines) : 0;
}

/** What the whole comes to: a state, a headline, what it means. */
function verdict() {
  const { status, down } = seen;
  if (down) {
    const old = status ? ` The figures are old: as of ${seconds(Date.parse(status.now))} UTC.` : "";
    return ["down", `${down.message ? "No figures" : "Not reachable"} since ${seconds(down.since)} UTC.`, `${down.message ? `${down.message} ` : ""}${old.trim()} Trying again every ${REFRESH_MS / 1000} s.`.trim()];
  }
  if (!status) return ["loading", "Loading", ""];
  const failed = (status.stages ?? []).find((stage) => stage.state === "failed");
  if (failed) return ["failed", `${failed.name} has failed.`, failed.detail ?? ""];
  const until = parseMinute(status.complete_until), lines = status.books?.lines ?? 0;
  if (until === null && lines === 0) return ["empty", "No data yet.", "Waiting for log lines."];
  if (status.queue === "unavailable") return ["stale", "The queue cannot be read.", "How far the pipeline has come is not known; the figures that are here are right."];
  const behind = delay(status);
  const backlog = (status.stages ?? []).reduce((sum, stage) => sum + (stage.lag_records || 0), 0);
  if (Number.isFinite(behind) && behind > STALE_SECONDS) {
    const catchingUp = seen.lines.length > 1 && behind < seen.lines[0].behind - 1;
    const why = catchingUp ? `catching up, ${plural(backlog, "record")} to go.` : rate() > 0 ? "lines arrive, but the watermark stands: a source may be holding it."
      : backlog > 0 ? `${plural(backlog, "record")} wait, and nothing moves.` : "no newer lines arrive.";
    return ["stale", "Stale.", `The data ends ${duration(behind)} ago; ${why}`];
  }
  const stopped = (status.stages ?? []).find((stage) => stage.state === "stopped");
  if (stopped) return ["stale", `${stopped.name} is stopped.`, until === null ? "" : `Complete until ${clock(until)} UTC.`];
  if (until === null) return ["empty", "No minute is complete yet.", `${plural(lines, "line")} read.`];
  const [late, rejected] = [share("late"), share("rejected")];
  if (late > MANY_LOST) return ["stale", "Many clicks come late.", `${percent(late, 1)} of the newest lines came after their minute was closed. They are kept, but not counted here.`];
  if (rejected > MANY_LOST) return ["stale", "Many lines are rejected.", `${percent(rejected, 1)} of the newest lines are no click.`];
  return ["live", "Live.", Number.isFinite(behind) ? `Complete until ${clock(until)} UTC; the watermark is ${duration(behind)} behind the clock.` : `Complete until ${clock(until)} UTC.`];
}

let announced = "";

function draw() {
  const [state, headline, meaning] = verdict();
  document.documentElement.dataset.state = state;
  const pausedAt = paused && state !== "down" && seen.status ? ` Paused at ${seconds(Date.parse(seen.status.now))} UTC.` : "";
  const line = at("state-text");
  put(line.firstElementChild, headline);
  if (line.childNodes.length < 2) line.append("");
  line.lastChild.data = ` ${meaning}${pausedAt}`;
  document.title = state === "live" ? "clickmill" : `${headline.replace(/\.$/, "")} – clickmill`;
  // Read out when the state changes and when another minute is complete, not at every refresh.
  const fresh = JSON.stringify([state, headline, seen.status?.complete_until]);
  if (fresh !== announced) put(at("announce"), `${headline} ${meaning}`);
  announced = fresh;
  for (const node of document.querySelectorAll(".old")) put(node, seen.status ? `as of ${seconds(Date.parse(seen.status.now))} UTC` : "");
  if (!seen.status) {
    if (state === "down") drawNothing();
    return;
  }
  drawTiles();
  drawTools();
  drawStages();
  drawDefinition();
  drawRanking();
  drawChart();
  if (view.examples) drawExamplesHead();
}

function drawTiles() {
  const { status } = seen, books = status.books ?? {}, lines = books.lines ?? 0;
  const tile = (name, text, sub) => {
    const node = at(`t-${name}`);
    put(node, text);
    node.classList.toggle("long", text.length > 9);
    node.classList.toggle("longer", text.length > 13);
    put(at(`t-${name}-sub`), sub);
  };
  const until = parseMinute(status.complete_until), rankings = parseMinute(status.rankings_complete_until);
  const lag = until !== null && rankings !== until ? `, rankings ${rankings === null ? "not yet" : clock(rankings)}` : "";
  tile("complete", until === null ? "–" : clock(until), until === null ? "no minute yet" : `${day(until)} UTC${lag}`);
  const behind = delay(status), known = !status.queue || status.queue === "ok";
  tile("delay", behind === null ? "–" : duration(behind), !known ? "watermark not known" : status.watermark ? `watermark ${seconds(Date.parse(status.watermark))}` : "no watermark yet");
  const perSecond = rate();
  tile("rate", perSecond === null || !known ? "–" : decimal(Math.round(perSecond * 10) / 10), known ? `${number(lines)} read` : "the queue is not readable here");
  const sum = ["counted", "duplicates", "late", "rejected"].reduce((total, name) => total + (books[name] ?? 0), 0);
  for (const name of ["counted", "duplicates", "late", "rejected"]) tile(name, known ? number(books[name] ?? 0) : "–", percent(books[name] ?? 0, lines));
  at("tile-counted").classList.toggle("off", sum !== lines);
  if (sum !== lines) put(at("t-counted-sub"), `books off by ${number(Math.abs(lines - sum))}`);
}

function drawStages() {
  const stages = seen.status.stages ?? [];
  const rows = stages.flatMap((stage) => {
    const quiet = ["running", "unknown"].includes(stage.state);
    const detail = quiet ? "" : [stage.detail, stage.since && `since ${String(stage.since).slice(0, 19).replace("T", " ")} UTC`].filter(Boolean).join(" · ");
    const lag = stage.lag_records;
    const known = ["running", "starting", "waiting", "failed", "stopped"].includes(stage.state) ? stage.state : "";
    const row = make("tr", { class: detail ? "more" : null },
      make("td", { title: quiet ? stage.detail : null }, String(stage.name)),
      make("td", {}, make("span", { class: `stage ${known}` }, make("span", { class: "dot" }), stage.state === "unknown" ? "elsewhere" : String(stage.state))),
      make("td", { class: lag ? "r" : "r muted" }, lag == null ? "–" : number(lag)));
    return detail ? [row, make("tr", {}, make("td", { colspan: 3, class: "detail" }, visible(detail)))] : [row];
  });
  swap(at("stages").tBodies[0], stages.length ? rows : [make("tr", {}, make("td", { colspan: 3, class: "muted" }, "No stage has reported yet."))]);
}

/** Replaces the children only where something differs, so that a selection of text survives a refresh. */
function swap(parent, children) {
  const same = parent.children.length === children.length && children.every((child, i) => child.isEqualNode(parent.children[i]));
  if (!same) parent.replaceChildren(...children);
}

function describe(filter) {
  const parts = [["country", "country"], ["exclude_country", "country not"], ["ip", "ip"], ["user_id", "user"]]
    .filter(([field]) => filter[field]?.length).map(([field, name]) => `${name} ${filter[field].join(" or ")}`);
  return parts.length ? parts.join(", and ") : "every click";
}

function term(filter) {
  const text = (minute) => { const m = parseMinute(minute); return m === null ? null : `${day(m)} ${clock(m)} UTC`; };
  return [text(filter.from) && `from ${text(filter.from)}`, text(filter.until) && `until ${text(filter.until)}`].filter(Boolean).join(" ");
}

const minuteOfDay = (minute) => { const m = parseMinute(minute); return m === null ? "?" : `${day(m)} ${clock(m)}`; };

/** What the last reconciliation came to, and where its report is. */
function reconciled({ verdict: outcome, from, to, made_at: made, differing, raw_clicks: clicks, lacks, surplus, report }) {
  const missing = lacks ? `, ${plural(lacks, "click")} missing` : "", tooMany = surplus ? `, ${plural(surplus, "click")} too many` : "";
  const what = outcome === "agrees" ? "every figure is right"
    : `${plural(differing, "figure")} ${differing === 1 ? "differs" : "differ"}${outcome === "within_threshold" ? ", within the threshold" : ""}${missing}${tooMany}`;
  return make("li", {}, make("span", { class: "muted" }, "rec"), make("span", {},
    make("strong", {}, what), ` in ${minuteOfDay(from)} to ${minuteOfDay(to)} UTC, of ${plural(clicks, "click")} `,
    make("small", {}, visible(`reconciled ${String(made).slice(0, 16).replace("T", " ")} UTC${report ? `, report ${report}` : ""}`))));
}

/** What a recalculation holds, whether it is seen, and what it changed. */
function recalculation({ revision, state, from, to, by, at: began, changed }) {
  const figures = changed ? changed.counts + changed.totals + changed.rankings : 0;
  const what = !changed ? "" : figures === 0 ? " · no figure changed"
    : ` · ${plural(changed.counts, "count")}, ${plural(changed.totals, "total")} and ${plural(changed.rankings, "ranking")} changed, ${number(changed.clicks_before)} → ${number(changed.clicks_after)} clicks`;
  return make("li", {}, make("span", { class: "muted" }, "rev"), make("span", {},
    make("strong", {}, `${revision}`), ` ${minuteOfDay(from)} to ${minuteOfDay(to)} UTC`, `, ${state}${what} `,
    make("small", {}, visible(`${by}, ${String(began).slice(0, 16).replace("T", " ")} UTC`))));
}

function drawDefinition() {
  const { definition, revisions, last_reconciliation: reconciliation } = seen.status;
  put(at("version"), definition ? `definition ${definition.version}` : "");
  put(at("definition-text"), definition ? `version ${definition.version} · top ${number(definition.n)} · windows of ${definition.windows.join(", ")} min` : "None yet: the pipeline has not been started.");
  swap(at("filters"), seen.filters.map((filter) => make("li", {}, make("span", { class: "muted" }, String(filter.id)),
    make("span", {}, make("strong", {}, filter.name || `filter ${filter.id}`), ` ${describe(filter)} `, make("small", {}, term(filter))))));
  swap(at("history"), [
    ...(revisions ?? []).slice(-5).reverse().map(recalculation),
    ...(reconciliation ? [reconciled(reconciliation)] : []),
  ]);
}

