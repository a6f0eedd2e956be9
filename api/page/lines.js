// ---- Lines set aside -----------------------------------------------------------------------------------------------------

const REASONS = {
  empty: "empty", too_long: "longer than 64 KiB", not_utf8: "not UTF-8", control_character: "control character", unknown_prefix: "unknown prefix",
  missing_field: "missing field", extra_field: "extra field", bad_timestamp: "impossible time", bad_ip: "wrong IP address", field_too_long: "field too long",
  broken_json: "broken JSON", wrong_json_type: "wrong JSON type", wrong_clock: "time too far ahead (wrong clock)", late: "its minute was closed already",
};
const reasonText = (reason) => REASONS[reason] ?? String(reason ?? "late").replaceAll("_", " ");
let examples = { kind: null, lines: null, error: null };

function drawDialog() {
  const dialog = at("examples");
  if (view.examples && !dialog.open) dialog.showModal();
  if (!view.examples) {
    if (dialog.open) dialog.close();
    return;
  }
  for (const input of dialog.querySelectorAll("[name=show]")) input.checked = input.value === view.examples;
  put(at("examples-title"), view.examples === "late" ? "Late clicks" : "Rejected lines");
  if (examples.kind !== view.examples) loadExamples();
}

async function loadExamples() {
  const kind = view.examples;
  examples = { kind, lines: null, error: null };
  view.reason = null;
  drawLines();
  try {
    const { lines } = await get(`v1/${kind}`, { limit: EXAMPLES }, AbortSignal.timeout(TIMEOUT_MS));
    if (examples.kind === kind) examples.lines = lines ?? [];
  } catch (error) {
    if (examples.kind === kind) examples.error = `Could not be loaded. ${error.message}`;
  }
  drawLines();
}

function drawExamplesHead() {
  const { kind, lines, error } = examples, books = seen.status?.books ?? {}, all = books[kind] ?? null;
  const about = kind === "late"
    ? "Clicks whose minute was closed already when they came. They are kept, and a recalculation of their minutes counts them."
    : "Lines that are no click. They are not counted, and each is kept with its reason.";
  put(at("examples-note"), error ?? (lines === null ? "Loading…" : `${about} ${lines.length ? `The newest ${number(lines.length)}${all === null ? "" : ` of ${number(all)}`}, newest first.` : all > 0 ? "No example is kept here any more; the Parquet files have them." : "There is none."}`));
  const byReason = kind === "rejected" ? Object.entries(books.rejected_by_reason ?? {}).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]) : [];
  const chip = (reason, text) => make("button", { type: "button", "data-reason": reason ?? "", "aria-pressed": String(view.reason === reason) }, text);
  swap(at("reasons"), byReason.length ? [chip(null, "all"), ...byReason.map(([reason, count]) => chip(reason, `${reasonText(reason)} ${number(count)}`))] : []);
}

function drawLines() {
  const { kind, lines } = examples;
  drawExamplesHead();
  const listed = (lines ?? []).filter((line) => view.reason === null || line.reason === view.reason);
  const items = listed.map((line) => {
    const file = line.file == null ? "from a foreign producer" : `${line.source == null ? "" : `${line.source}: `}${line.file}, byte ${line.byte_offset}`;
    const place = `${line.topic}/${line.partition} offset ${line.offset}, line ${line.line_number}`;
    return make("li", {}, make("div", { class: "where" }, kind === "late" ? null : make("strong", {}, `${reasonText(line.reason)} `), make("span", {}, visible(file))),
      make("pre", { class: "mono" }, line.line === "" ? "(empty)" : visible(line.line)),
      make("small", { class: "where" }, `${visible(place)} · arrived ${String(line.arrival ?? "").slice(0, 19).replace("T", " ")} UTC`));
  });
  if (lines !== null && lines.length && !items.length) items.push(make("li", { class: "muted" }, "None of the newest lines has this reason."));
  at("lines").replaceChildren(...items);
}

