// ---- Drawing: the chart ------------------------------------------------------------------------------------------------

const STEPS = { minute: 1, hour: 60, day: 1440 };
let chart = null; // what is drawn: {points, step, x, y, height}
let cursor = null; // the place of the point looked at

/** The series with a zero wherever the API has nothing. */
function fillGaps(entry) {
  const step = STEPS[entry.step], counts = new Map();
  for (const { minute, count } of entry.answer.counts ?? []) {
    const bucket = floor(parseMinute(minute), step);
    counts.set(bucket, (counts.get(bucket) ?? 0) + count);
  }
  const points = [];
  const until = entry.answer.complete ? entry.to : parseMinute(entry.answer.complete_until) ?? entry.from;
  for (let t = floor(entry.from, step); t < entry.to; t += step) {
    points.push({ t, count: counts.get(t) ?? 0, open: Math.min(t + step, entry.to) > until });
  }
  return points;
}

/** Round figures for an axis from 0, at most five of them above. */
function ticks(max) {
  const rough = Math.max(max, 1) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough));
  return Array.from({ length: Math.ceil(Math.max(max, 1) / step) + 1 }, (_, i) => i * step);
}

function timeTicks(from, to, wanted) {
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7 * 1440, 14 * 1440, 30 * 1440, 61 * 1440].find((s) => (to - from) / s <= wanted) ?? 92 * 1440;
  const all = [];
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) all.push(t);
  return { step, all };
}

function drawChart() {
  const ad = chosenAd(), entry = seen.series, plot = at("plot"), asked = bounds();
  const mine = entry && entry.ad === ad ? entry : null, total = seen.total?.ad === ad ? seen.total : null;
  put(at("ad-name"), ad === null ? "" : visible(ad));
  if (document.activeElement !== at("ad")) at("ad").value = view.ad ?? "";
  const step = mine?.step ?? "minute", refused = mine?.refused ?? total?.refused;
  put(at("chart-what"), ad === null ? "Clicks per minute" : `Clicks per ${step} of`);
  put(at("chart-range"), mine && !refused ? range(mine.from, mine.to, nowMinute()) : "");
  link(at("chart-json"), mine);
  mark(at("chart-mark"), mine?.answer && !mine.answer.complete ? "not complete" : "");
  put(at("chart-note"), mine?.answer && !mine.answer.complete ? "Hatched: not complete." : mine && asked && mine.from < asked.from ? "Shaded: the range of the ranking." : "");

  const rank = ad === null ? -1 : (seen.ranking?.answer?.ad_ids ?? []).indexOf(ad);
  put(at("f-total"), total?.answer ? `${number(total.answer.count)}${total.answer.complete ? "" : " +"}` : "–");
  put(at("f-total-name"), asked ? `In ${span(asked.to - asked.from)}` : "In the range");
  at("f-total").title = total?.answer && !total.answer.complete ? "not complete: it may still grow" : "";
  put(at("f-rank"), rank >= 0 ? rank + 1 : seen.ranking?.answer?.ad_ids?.length && ad !== null ? `below ${seen.ranking.answer.ad_ids.length}` : "–");
  const points = mine?.answer ? fillGaps(mine) : [];
  const peak = points.reduce((best, point) => point.count > best.count ? point : best, { count: -1 });
  const whole = points.filter((point) => !point.open);
  put(at("f-mean"), whole.length ? decimal(whole.reduce((sum, point) => sum + point.count, 0) / whole.length) : "–");
  put(at("f-peak-name"), peak.count > 0 ? `Peak, ${label(peak.t, step)}` : "Peak");
  put(at("f-peak"), points.length ? number(peak.count) : "–");

  const width = plot.clientWidth, height = plot.clientHeight;
  const key = JSON.stringify([mine?.key, mine?.time, refused, asked, width, height]);
  if (plot.dataset.key === key) return;
  plot.dataset.key = key;
  for (const node of plot.querySelectorAll("svg, p")) node.remove();
  plot.setAttribute("aria-label", ad === null ? "Clicks over time" : `Clicks per ${step} of ${visible(ad)}. Arrow keys go through the figures.`);
  plot.setAttribute("aria-valuemax", Math.max(0, points.length - 1));
  if (!points.length) {
    chart = null;
    moveCursor(null);
    plot.append(make("p", {}, refused ?? (ad === null ? "Choose an ad from the ranking, or type its id." : "Loading…")));
    return;
  }
  plot.prepend(picture(points, mine, asked, width, height));
  moveCursor(cursor === null ? null : Math.min(cursor, points.length - 1));
  if (at("table").open) drawTable();
}

function picture(points, entry, asked, width, height) {
  const step = STEPS[entry.step], first = points[0].t, end = points.at(-1).t + step;
  const yTicks = ticks(points.reduce((max, point) => Math.max(max, point.count), 0)), top = yTicks.at(-1);
  const left = 14 + 6.4 * number(top).length, right = width - 12, bottom = height - 24, head = 10;
  const x = (t) => left + (right - left) * (t - first) / (end - first), y = (count) => bottom - (bottom - head) * count / top;
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const hatch = make("svg:pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, make("svg:line", { class: "grid", x1: 0, y1: 0, x2: 0, y2: 6, "stroke-width": 3 }));
  svg.append(make("svg:defs", {}, hatch));
  const band = (from, to, kind) => {
    const [a, b] = [Math.max(x(from), left), Math.min(x(to), right)];
    if (b > a) svg.append(make("svg:rect", { class: kind, x: a, y: head, width: b - a, height: bottom - head }));
  };
  if (asked && asked.from > first) {
    band(asked.from, asked.to, "span");
    svg.append(make("svg:line", { class: "edge", x1: x(asked.from), x2: x(asked.from), y1: head, y2: bottom }));
  }
  const until = parseMinute(entry.answer.complete_until);
  if (!entry.answer.complete && until !== null) band(Math.max(until, first), end, "open");
  for (const value of yTicks) {
    svg.append(make("svg:line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      make("svg:text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  const times = timeTicks(first, end, Math.max(2, Math.floor((right - left) / 84)));
  for (const t of times.all) {
    const text = times.step >= 1440 || t % 1440 === 0 ? iso(t).slice(5, 10) : clock(t), place = x(t);
    svg.append(make("svg:line", { class: "grid", x1: place, x2: place, y1: bottom, y2: bottom + 4 }),
      make("svg:text", { x: Math.min(place, width - 16), y: bottom + 17, "text-anchor": "middle" }, text));
  }
  // Counts belong to whole steps: a staircase, not a slope between them.
  // Where nothing is known yet, nothing is drawn: a zero there would be a claim.
  const known = points.slice(0, points.findLastIndex((point) => !point.open || point.count > 0) + 1);
  const stairs = known.map((point) => `V${y(point.count).toFixed(1)}H${x(point.t + step).toFixed(1)}`).join("");
  svg.append(make("svg:path", { class: "area", d: `M${left} ${bottom}${stairs}V${bottom}Z` }),
    make("svg:path", { class: "curve", d: `M${left} ${y(points[0].count).toFixed(1)}${stairs}` }),
    make("svg:line", { class: "cursor", y1: head, y2: bottom, visibility: "hidden" }), make("svg:circle", { class: "point", r: 4.5, visibility: "hidden" }));
  chart = { points, step: entry.step, left, right, x: (i) => x(points[i].t + step / 2), y: (i) => y(points[i].count), svg, width };
  return svg;
}

const label = (t, step) => step === "day" ? day(t) : day(t) === day(nowMinute()) ? clock(t) : `${iso(t).slice(5, 10)} ${clock(t)}`;

function moveCursor(place) {
  const plot = at("plot"), tip = at("tip");
  cursor = chart ? place : null;
  show(tip, cursor !== null);
  const signs = chart ? [chart.svg.querySelector(".cursor"), chart.svg.querySelector(".point")] : [];
  for (const sign of signs) sign.setAttribute("visibility", cursor === null ? "hidden" : "visible");
  if (cursor === null) {
    plot.setAttribute("aria-valuetext", chart ? `${chart.points.length} figures` : "no figures");
    return;
  }
  const point = chart.points[cursor], x = chart.x(cursor), y = chart.y(cursor);
  signs[0].setAttribute("x1", x); signs[0].setAttribute("x2", x);
  signs[1].setAttribute("cx", x); signs[1].setAttribute("cy", y);
  const when = `${label(point.t, chart.step)}${chart.step === "day" ? "" : " UTC"}`;
  swap(tip, [make("b", {}, number(point.count)), make("span", {}, ` ${point.count === 1 ? "click" : "clicks"}${point.open ? " so far" : ""}, ${when}`)]);
  const room = tip.offsetWidth;
  tip.style.transform = `translate(${Math.round(Math.min(Math.max(x - room / 2, 0), chart.width - room))}px, ${y > 52 ? 6 : Math.round(y + 14)}px)`;
  plot.setAttribute("aria-valuenow", cursor);
  plot.setAttribute("aria-valuetext", `${when}: ${plural(point.count, "click")}${point.open ? " so far" : ""}`);
}

function pointAt(event) {
  if (!chart) return null;
  const x = event.clientX - at("plot").getBoundingClientRect().left, n = chart.points.length;
  return Math.min(n - 1, Math.max(0, Math.floor(n * (x - chart.left) / (chart.right - chart.left))));
}

function keyOnChart(event) {
  if (!chart) return;
  const last = chart.points.length - 1, now = cursor ?? last + 1;
  const place = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 0, End: last }[event.key];
  if (event.key === "Escape") moveCursor(null);
  else if (place !== undefined) { event.preventDefault(); moveCursor(Math.min(last, Math.max(0, place))); }
}

function drawTable() {
  const rows = (chart?.points ?? []).map((point) => make("tr", {}, make("td", {}, chart.step === "day" ? day(point.t) : `${day(point.t)} ${clock(point.t)}`), make("td", { class: "r" }, number(point.count))));
  at("table").querySelector("tbody").replaceChildren(...rows.reverse());
}

