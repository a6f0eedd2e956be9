// ---- Minutes: inside, minutes since 1970; outside, yyyyMMddHHmm in UTC -----------------------------------------------

const pad = (n, width = 2) => String(n).padStart(width, "0");

function parseMinute(value) {
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)$/.exec(pad(value ?? "", 12));
  if (!parts) return null;
  const [year, month, day, hour, minute] = parts.slice(1).map(Number);
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  date.setUTCHours(hour, minute);
  const epoch = date.getTime() / 60_000;
  return wire(epoch) === parts[0] ? epoch : null;
}

function wire(epoch) {
  const date = new Date(epoch * 60_000);
  return pad(date.getUTCFullYear(), 4) + pad(date.getUTCMonth() + 1) + pad(date.getUTCDate()) + pad(date.getUTCHours()) + pad(date.getUTCMinutes());
}

const iso = (epoch) => new Date(epoch * 60_000).toISOString();
const day = (epoch) => iso(epoch).slice(0, 10);
const clock = (epoch) => iso(epoch).slice(11, 16);
const seconds = (milliseconds) => new Date(milliseconds).toISOString().slice(11, 19);
const floor = (epoch, step) => Math.floor(epoch / step) * step;

/** A range as people say it; the day is named where it is not today's. */
function range(from, to, now) {
  const named = (epoch) => `${day(epoch)} ${clock(epoch)}`;
  if (day(from) === day(to - 1)) {
    const end = to % 1440 === 0 ? "24:00" : clock(to);
    return `${day(from) === day(now) ? "" : `${day(from)} `}${clock(from)} – ${end} UTC`;
  }
  return `${named(from)} – ${named(to)} UTC`;
}

function duration(total) {
  const s = Math.max(0, Math.round(total));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  if (s < 63_072_000) return `${number(Math.floor(s / 86_400))} days`;
  return `${Math.floor(s / 31_536_000)} years`;
}

const span = (minutes) => minutes % 1440 === 0 && minutes > 1440 ? `${minutes / 1440} days` : minutes % 60 === 0 ? `${minutes / 60} h` : `${minutes} min`;

