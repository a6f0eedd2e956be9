// ---- Hands on ------------------------------------------------------------------------------------------------------------

function pick(ad, button) {
  choose({ ad });
  drawRanking();
  drawChart();
  if (matchMedia("(max-width: 1080px)").matches) {
    at("chart").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  }
  button?.focus({ preventScroll: true });
}

at("ranking").tBodies[0].addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !String(getSelection())) pick(row.dataset.ad, row.querySelector("button"));
});
at("ranking").tBodies[0].addEventListener("keydown", (event) => {
  const buttons = [...at("ranking").tBodies[0].querySelectorAll("button")], now = buttons.indexOf(event.target);
  const place = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (now < 0 || place === undefined) return;
  event.preventDefault();
  const next = buttons[Math.min(buttons.length - 1, Math.max(0, place))];
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
});
at("pick").addEventListener("submit", (event) => {
  event.preventDefault();
  choose({ ad: at("ad").value.trim() || null });
  drawRanking();
  drawChart();
});
at("filter").addEventListener("change", () => choose({ filter: Number(at("filter").value) }));
at("depth").addEventListener("change", () => choose({ depth: Number(at("depth").value) }));
at("windows").addEventListener("change", (event) => {
  const { value } = event.target;
  put(at("custom-error"), "");
  editing = value === "custom";
  if (!editing) return choose({ range: value === "today" ? "today" : Number(value) });
  const asked = bounds() ?? { from: nowMinute() - 60, to: nowMinute() };
  fill(asked.from, asked.to);
  drawTools();
});
at("custom").addEventListener("submit", chooseRange);
at("custom").addEventListener("input", () => { editing = true; });
at("custom").addEventListener("click", (event) => {
  const preset = event.target.dataset?.preset;
  if (!preset) return;
  const length = preset === "hour" ? 60 : 1440, end = floor(parseMinute(seen.status?.complete_until) ?? nowMinute(), length);
  editing = false;
  choose({ range: { from: end - length, to: end } });
});
at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  put(at("pause"), paused ? "Resume" : "Pause");
  if (paused) draw();
  else kick();
});
at("plot").addEventListener("pointermove", (event) => moveCursor(pointAt(event)));
at("plot").addEventListener("pointerdown", (event) => moveCursor(pointAt(event)));
at("plot").addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") moveCursor(null); });
at("plot").addEventListener("keydown", keyOnChart);
at("plot").addEventListener("focus", () => { if (at("plot").matches(":focus-visible") && chart) moveCursor(cursor ?? chart.points.length - 1); });
at("plot").addEventListener("blur", () => moveCursor(null));
at("table").addEventListener("toggle", drawTable);
new ResizeObserver(() => { if (seen.status) drawChart(); }).observe(at("plot"));

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-show]"), skip = event.target.closest("[data-skip]"), chip = event.target.closest("[data-reason]");
  if (opener) { Object.assign(view, { examples: opener.dataset.show }); writeAddress(); drawDialog(); }
  if (skip) {
    event.preventDefault();
    const target = at(skip.hash.slice(1));
    target.scrollIntoView({ block: "start" });
    target.focus({ preventScroll: true });
  }
  if (chip) { view.reason = chip.dataset.reason || null; drawLines(); at("reasons").querySelector("[aria-pressed=true]")?.focus(); }
});
at("examples").addEventListener("change", (event) => { view.examples = event.target.value; writeAddress(); drawDialog(); });
at("examples").addEventListener("close", () => { if (view.examples) { view.examples = null; writeAddress(); } examples = { kind: null, lines: null, error: null }; });
at("again").addEventListener("click", loadExamples);
at("close").addEventListener("click", () => at("examples").close());
at("examples").addEventListener("click", (event) => { if (event.target === at("examples")) at("examples").close(); });

addEventListener("popstate", () => { readAddress(); editing = false; drawTools(); drawDialog(); kick(); });
document.addEventListener("visibilitychange", tick);

readAddress();
drawTools();
drawDialog();
kick();
