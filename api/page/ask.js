// ---- Asking the API --------------------------------------------------------------------------------------------------

/** The API gave no answer, or one that is not about this request: everything is old from then on. */
class Down extends Error {}
/** The API refused this request; `message` is what it says about it. */
class Refused extends Error {}

function address(path, parameters) {
  const query = new URLSearchParams(parameters).toString();
  return query ? `${path}?${query}` : path;
}

function adPath(ad, rest) {
  // A browser resolves a path segment of dots, whatever way it is written.
  if (/^\.{1,2}$/.test(ad)) throw new Refused(`An ad called “${ad}” cannot be asked for from a browser.`);
  return `v1/ads/${encodeURIComponent(ad)}/${rest}`;
}

async function get(path, parameters, signal) {
  let response, body;
  try {
    response = await fetch(address(path, parameters), { cache: "no-store", signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]) });
    body = await response.text();
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Down(error.name === "TimeoutError" ? `No answer within ${TIMEOUT_MS / 1000} s.` : "");
  }
  let json = null;
  try { json = JSON.parse(body); } catch { /* told apart below */ }
  if (response.ok && json !== null && typeof json === "object") return json;
  const said = [json?.title, json?.detail].filter(Boolean).join(": ") || `status ${response.status}`;
  if (response.status >= 400 && response.status < 500 && response.status !== 429) throw new Refused(said);
  throw new Down(`It answers: ${said}.`);
}

const seen = {
  status: null,      // the newest answer of /v1/status
  statusKey: "",     // what in it makes figures worth asking for again
  lines: [],         // {time, lines, behind, late, rejected} of the last seconds
  filters: [], filtersOf: null,
  ranking: null, before: null, series: null, total: null, // each {key, time, answer | refused}
  down: null,        // {since, message} while the API does not answer
};

let paused = false, running = null, timer = 0;

/** Drops what is under way and asks now; a page that nobody sees asks nothing. */
function kick() {
  clearTimeout(timer);
  running?.abort();
  if (document.hidden) return;
  const mine = running = new AbortController();
  refresh(mine.signal).then(
    () => { seen.down = null; },
    (error) => {
      if (mine.signal.aborted) return;
      if (!(error instanceof Down)) throw error;
      seen.down = { since: seen.down?.since ?? Date.now(), message: error.message };
    },
  ).finally(() => {
    if (mine !== running) return;
    draw();
    timer = setTimeout(tick, REFRESH_MS);
  });
}

function tick() {
  if (!paused) kick();
}

async function refresh(signal) {
  const status = await get("v1/status", {}, signal);
  // Without the store there are no figures, and those of before are better than none.
  if (status.store && status.store !== "ok") throw new Down("The store cannot be read at the moment.");
  seen.status = status;
  note(status);
  const version = status.definition?.version ?? null;
  if (seen.filtersOf !== version) {
    seen.filters = (await get("v1/filters", {}, signal)).filters ?? [];
    seen.filtersOf = version;
  }
  draw();
  seen.statusKey = JSON.stringify([status.complete_until, status.rankings_complete_until, version, status.revisions]);
  const asked = bounds();
  if (!asked) {
    seen.ranking = seen.before = seen.series = seen.total = null;
    return;
  }
  const { from, to } = asked;
  const query = (first, end) => ({ from: wire(first), to: wire(end), filter: view.filter });
  const n = Math.max(view.depth, Math.min(status.definition?.n ?? 100, MAX_DEPTH));
  await Promise.all([
    load("ranking", "v1/ads/popular_ads", { ...query(from, to), n: view.depth }, signal),
    load("before", "v1/ads/popular_ads", { ...query(from - (to - from), from), n }, signal),
  ]);
  const ad = chosenAd();
  if (ad === null) {
    seen.series = seen.total = null;
    return;
  }
  const around = chartBounds(asked);
  await Promise.all([
    load("series", () => adPath(ad, "counts"), { ...query(around.from, around.to), step: around.step }, signal, { ad, ...around }),
    load("total", () => adPath(ad, "aggregated_count"), query(from, to), signal, { ad }),
  ]);
}

/** Asks for one of the figures, unless what is there is new enough. */
async function load(name, path, parameters, signal, more = {}) {
  const query = JSON.stringify([more.ad ?? "", parameters]), key = query + seen.statusKey, old = seen[name];
  if (old && old.key === key && Date.now() - old.time < FIGURES_AGE_MS) return;
  const entry = { key, query, time: Date.now(), parameters, ...more };
  try {
    entry.path = typeof path === "function" ? path() : path;
    entry.answer = await get(entry.path, parameters, signal);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    entry.refused = error.message;
  }
  seen[name] = entry;
}

function note(status) {
  const time = Date.parse(status.now), lines = status.books?.lines;
  if (!Number.isFinite(time) || !Number.isFinite(lines) || (status.queue && status.queue !== "ok")) return;
  if (seen.lines.length && (lines < seen.lines.at(-1).lines || time < seen.lines.at(-1).time)) seen.lines = [];
  seen.lines.push({ time, lines, behind: delay(status), late: status.books.late ?? 0, rejected: status.books.rejected ?? 0 });
  while (seen.lines.length > 2 && time - seen.lines[0].time > RATE_SECONDS * 1000) seen.lines.shift();
}

function rate() {
  const first = seen.lines[0], last = seen.lines.at(-1);
  return first && last.time > first.time ? (last.lines - first.lines) * 1000 / (last.time - first.time) : null;
}

/** The ad of the chart: the chosen one, otherwise the first of the ranking. */
const chosenAd = () => view.ad ?? seen.ranking?.answer?.ad_ids?.[0] ?? null;

/** A chart of few minutes says nothing: it reaches back further than the ranking, and its steps grow with it. */
function chartBounds({ from, to }) {
  const first = Math.min(from, to - 60), length = to - first;
  const step = length <= 1440 ? "minute" : length <= 1440 * 45 ? "hour" : "day";
  return { from: first, to, step };
}

