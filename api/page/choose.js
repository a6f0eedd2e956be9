// ---- Drawing: what to show ---------------------------------------------------------------------------------------------

function drawTools() {
  const filters = seen.filters.length ? seen.filters : [{ id: 0, name: "all" }];
  const option = (filter) => make("option", { value: filter.id }, filter.name || `filter ${filter.id}`);
  const known = filters.some((filter) => filter.id === view.filter);
  const retired = filters.filter((filter) => filter.until != null);
  const select = at("filter");
  swap(select, [
    ...filters.filter((filter) => filter.until == null).map(option),
    ...(retired.length ? [make("optgroup", { label: "No longer counted" }, ...retired.map(option))] : []),
    ...(known ? [] : [make("option", { value: view.filter }, `${view.filter} (unknown)`)]),
  ]);
  select.value = view.filter;
  const chosen = filters.find((filter) => filter.id === view.filter);
  put(at("predicate"), chosen && chosen.id !== 0 ? [describe(chosen), term(chosen)].filter(Boolean).join(" · ") : "");

  const depths = [...new Set([...DEPTHS, view.depth])].sort((a, b) => a - b);
  swap(at("depth"), depths.map((n) => make("option", { value: n }, `top ${number(n)}`)));
  at("depth").value = view.depth;

  const asked = view.range ?? defaultWindow(), custom = typeof asked === "object";
  const offered = windows().map((w) => [w, span(w)]).concat([["today", "Today"], ["custom", "Range…"]]);
  if (typeof asked === "number" && !windows().includes(asked)) offered.unshift([asked, span(asked)]);
  const holder = at("windows");
  if (holder.dataset.of !== JSON.stringify(offered)) {
    const focused = holder.contains(document.activeElement) ? document.activeElement.value : null;
    holder.dataset.of = JSON.stringify(offered);
    holder.replaceChildren(...offered.map(([value, text]) => make("label", {}, make("input", { type: "radio", name: "time", value }), make("span", {}, text))));
    if (focused !== null) holder.querySelector(`[value="${CSS.escape(focused)}"]`)?.focus();
  }
  const value = String(custom || editing ? "custom" : asked);
  for (const input of holder.querySelectorAll("input")) input.checked = input.value === value;
  show(at("custom"), custom || editing);
  if (custom && !editing) fill(asked.from, asked.to);
}

let editing = false; // the range is being typed; it is not asked for before "Show"

function fill(from, to) {
  for (const [id, epoch] of [["from", from], ["to", to]]) {
    const text = iso(epoch).slice(0, 16);
    if (at(id).value !== text && document.activeElement !== at(id)) at(id).value = text;
  }
}

function chooseRange(event) {
  event.preventDefault();
  const [from, to] = ["from", "to"].map((id) => Date.parse(`${at(id).value}Z`) / 60_000);
  const wrong = !Number.isInteger(from) || !Number.isInteger(to) ? "Both times are needed."
    : from >= to ? "The range must end after it begins." : to - from > MAX_MINUTES ? "A range may be 366 days long at most." : "";
  put(at("custom-error"), wrong);
  if (wrong) return;
  editing = false;
  choose({ range: { from, to } });
}

