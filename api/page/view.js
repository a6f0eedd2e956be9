// ---- What is asked for: kept in the address, so that a view can be sent to someone -----------------------------------

/** `range` is minutes up to the last complete one, "today", or {from, to}. */
const view = { filter: 0, range: null, depth: 20, ad: null, examples: null, reason: null };

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  const whole = (name, low, high) => {
    const text = address.get(name);
    return /^\d{1,10}$/.test(text ?? "") && +text >= low && +text <= high ? +text : null;
  };
  const from = parseMinute(address.get("from")), to = parseMinute(address.get("to"));
  view.filter = whole("filter", 0, 65_535) ?? 0;
  view.depth = whole("n", 1, MAX_DEPTH) ?? 20;
  view.ad = address.get("ad") || null;
  view.examples = ["late", "rejected"].includes(address.get("lines")) ? address.get("lines") : null;
  if (from !== null && to !== null && from < to && to - from <= MAX_MINUTES) view.range = { from, to };
  else if (address.get("time") === "today") view.range = "today";
  else view.range = whole("time", 1, MAX_MINUTES);
}

function writeAddress() {
  const address = new URLSearchParams();
  if (view.range === "today") address.set("time", "today");
  else if (typeof view.range === "object" && view.range) { address.set("from", wire(view.range.from)); address.set("to", wire(view.range.to)); }
  else if (view.range) address.set("time", view.range);
  if (view.filter) address.set("filter", view.filter);
  if (view.depth !== 20) address.set("n", view.depth);
  if (view.ad) address.set("ad", view.ad);
  if (view.examples) address.set("lines", view.examples);
  const hash = address.toString();
  if (hash !== location.hash.slice(1)) history.pushState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

/** Changes what is asked for, and asks at once. */
function choose(change) {
  Object.assign(view, change);
  writeAddress();
  drawTools();
  kick();
}

function windows() {
  const configured = seen.status?.definition?.windows ?? [1, 5, 60];
  return [...new Set([...configured, 60, 1440])].sort((a, b) => a - b);
}

/** The minutes to show, [from, to), or null while none is complete. */
function bounds() {
  const asked = view.range ?? defaultWindow();
  if (typeof asked === "object") return { from: asked.from, to: asked.to, live: false };
  const ends = [seen.status?.complete_until, seen.status?.rankings_complete_until].map(parseMinute).filter((m) => m !== null);
  if (ends.length === 0) return null;
  const to = Math.min(...ends);
  return { from: asked === "today" ? floor(to - 1, 1440) : to - asked, to, live: true };
}

function defaultWindow() {
  const all = windows();
  return all.includes(5) ? 5 : all[0];
}

