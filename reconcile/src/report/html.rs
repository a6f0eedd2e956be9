//! Reports for people: one file each, without scripts, that reads well on paper.

use std::fmt::Write;

use super::history::History;
use super::{Report, Verdict};
use crate::compare::{Kind, Sum};

/// How many rows of a table are shown. The JSON beside it has all.
const MOST_ROWS: usize = 200;

/// How many days the trend shows.
const MOST_DAYS: usize = 90;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:2rem 0 .5rem;break-after:avoid}\
.verdict{border-left:.5rem solid;padding:.8rem 1rem;margin:1rem 0;background:#f6f8fa;print-color-adjust:exact}\
.verdict b{font-size:1.25rem;display:block}.good{border-color:#1a7f37}.fair{border-color:#9a6700}.bad{border-color:#cf222e}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}tr{break-inside:avoid}\
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #d0d7de;vertical-align:top;overflow-wrap:anywhere}\
th{font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}.dim{color:#57606a}\
@media print{body{margin:0;max-width:none;font-size:11px}a{color:inherit;text-decoration:none}}";

/// A page.
fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{}</title><style>{STYLE}</style></head><body>\n{body}</body></html>\n",
        escaped(title)
    )
}

/// A text that stands in HTML. What comes from log lines may be anything.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A number with thin spaces between thousands.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

/// `202101010007` as people read it.
fn minute(minute: clickmill_model::Minute) -> String {
    minute.start().to_string().replace('T', " ").chars().take(16).collect()
}

fn percent(rate: f64) -> String {
    if rate == 0.0 { "0 %".to_owned() } else { format!("{:.6} %", rate * 100.0) }
}

/// A table, of which so many rows are shown. Columns whose head begins with `#` hold numbers.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>, all: u64) -> String {
    let class =
        |place: usize| if heads.get(place).is_some_and(|head| head.starts_with('#')) { " class=\"n\"" } else { "" };
    let mut out = String::from("<table><thead><tr>");
    for (place, head) in heads.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(place), escaped(head.trim_start_matches('#')));
    }
    out += "</tr></thead><tbody>\n";
    let mut shown = 0;
    for row in rows.take(MOST_ROWS) {
        out += "<tr>";
        for (place, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{cell}</td>", class(place));
        }
        out += "</tr>\n";
        shown += 1;
    }
    out += "</tbody></table>\n";
    if all > shown {
        let _ = writeln!(
            out,
            "<p class=\"dim\">{} more are not shown here; the JSON file beside this one has them as far as they are kept.</p>",
            number(all - shown)
        );
    }
    out
}

fn section(out: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = writeln!(out, "<h2>{title}</h2>\n{content}");
    }
}

const fn verdict_of(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Agrees => ("good", "Every figure is right"),
        Verdict::WithinThreshold => ("fair", "Some figures differ, within what is tolerated"),
        Verdict::Differs => ("bad", "Figures differ"),
    }
}

/// The page of a report.
pub(super) fn page(report: &Report) -> String {
    let title = format!("Reconciliation of {} to {}", minute(report.from), minute(report.to));
    let (class, verdict) = verdict_of(report.verdict);
    let mut out = format!(
        "<h1>{title}</h1><p class=\"dim\">UTC; made {}; by definition {}</p>\n<div class=\"verdict {class}\"><b>{verdict}</b>{}</div>\n",
        escaped(&report.made_at),
        report.definition,
        escaped(&report.sentence())
    );
    section(&mut out, "What it means", &meaning(report));
    if let Some(repair) = &report.repair {
        let spans = repair.spans.iter().map(|(from, to)| format!("<li>{} to {}</li>", minute(*from), minute(*to)));
        let before: Vec<String> =
            repair.before.iter().map(|(kind, sum)| format!("{} {}", number(sum.figures), kind.name())).collect();
        let content = format!(
            "<p>These spans differed ({}), were recalculated from the raw lines, and then reconciled again; all else on this page is what was found after that.</p><ul>{}</ul>",
            before.join(", "),
            spans.take(MOST_ROWS).collect::<String>()
        );
        section(&mut out, "Repaired", &content);
    }
    section(&mut out, "Why figures differ", &kinds(report));
    section(&mut out, "By filter", &by_filter(report));
    let of = |key: String, sum: &Sum| vec![key, number(sum.figures), number(sum.lacks), number(sum.surplus)];
    if !report.by_hour.is_empty() {
        let rows = report.by_hour.iter().map(|hour| of(minute(hour.of), &hour.sum));
        let heads = ["hour", "#counts", "#clicks missing", "#clicks too many"];
        section(&mut out, "By hour, filter 0", &table(&heads, rows, report.by_hour.len() as u64));
        let rows = report.by_ad.iter().map(|ad| of(escaped(&ad.of), &ad.sum));
        let heads = ["ad", "#counts", "#clicks missing", "#clicks too many"];
        section(&mut out, "By ad, filter 0, most first", &table(&heads, rows, report.by_ad.len() as u64));
    }
    section(&mut out, "Counts that differ", &counts(report));
    section(&mut out, "Rankings that differ", &rankings(report));
    section(&mut out, "The lines behind them", &lines_behind(report));
    section(&mut out, "How the stream read its lines", &disagreements(report));
    section(&mut out, "What was read", &read(report));
    let notes: String = report.notes.iter().map(|note| format!("<li>{}</li>", escaped(note))).collect();
    section(&mut out, "Notes", &if notes.is_empty() { notes } else { format!("<ul>{notes}</ul>") });
    document(&title, &out)
}

fn meaning(report: &Report) -> String {
    let mut out = format!(
        "<p>The raw lines tell {} clicks, the store has {}. It lacks {} and has {} too many, minute by minute and ad by ad.</p>",
        number(report.raw_clicks),
        number(report.stored_clicks),
        number(report.clicks.lacks),
        number(report.clicks.surplus)
    );
    if let Some(money) = &report.money {
        let currency = escaped(&money.currency);
        let _ = write!(
            out,
            "<p>At {} {currency} a click that is <b>{:.2} {currency}</b> not billed and <b>{:.2} {currency}</b> billed too much.</p>",
            money.price_per_click, money.not_billed, money.billed_too_much
        );
    }
    let rate = report.rate.map_or_else(
        || "not a share of clicks: totals or rankings contradict the counts beside them".to_owned(),
        percent,
    );
    let _ = write!(
        out,
        "<p>Share of clicks that differs, the highest of all filters: {rate}; tolerated: {}.</p>",
        percent(report.threshold)
    );
    out
}

/// What each kind of difference means.
const fn explained(kind: Kind) -> &'static str {
    match kind {
        Kind::Late => "clicks that came when their minute was closed; a recalculation counts them",
        Kind::Missing => "clicks that raw lines tell and the store lacks",
        Kind::Surplus => "clicks that the store has and no raw line tells",
        Kind::Total => "totals of hours or days that are not the sum of what raw lines tell",
        Kind::Ranking => "rankings that follow from counts that differ",
        Kind::RankingOnly => "rankings that differ although the counts of their window are right",
    }
}

fn kinds(report: &Report) -> String {
    if report.by_kind.is_empty() {
        return String::new();
    }
    let rows = report.by_kind.iter().map(|(kind, sum)| {
        vec![
            kind.name().to_owned(),
            explained(*kind).to_owned(),
            number(sum.figures),
            number(sum.lacks),
            number(sum.surplus),
        ]
    });
    table(&["kind", "meaning", "#figures", "#clicks missing", "#clicks too many"], rows, report.by_kind.len() as u64)
}

fn by_filter(report: &Report) -> String {
    let rows = report.by_filter.iter().map(|of| {
        let name = format!("{} {}", of.filter, escaped(&of.name));
        vec![
            name,
            number(of.raw),
            number(of.stored),
            number(of.sum.figures),
            number(of.sum.lacks),
            number(of.sum.surplus),
        ]
    });
    let heads =
        ["filter", "#raw clicks", "#stored clicks", "#counts that differ", "#clicks missing", "#clicks too many"];
    table(&heads, rows, report.by_filter.len() as u64)
}

fn counts(report: &Report) -> String {
    if report.counts.is_empty() {
        return String::new();
    }
    let rows = report.counts.iter().map(|count| {
        let when = format!("{} {}", count.span, minute(count.start));
        let kind = if count.kind == Kind::Missing && count.late > 0 {
            format!("missing ({} late)", number(count.late))
        } else {
            count.kind.name().to_owned()
        };
        vec![when, count.filter.to_string(), escaped(&count.ad_id), kind, number(count.raw), number(count.stored)]
    });
    let all = report.counts.len() as u64 + report.left_out.counts;
    table(&["when", "filter", "ad", "why", "#raw", "#stored"], rows, all)
}

fn rankings(report: &Report) -> String {
    if report.rankings.is_empty() {
        return String::new();
    }
    let places = |ads: &[(String, u64)]| -> String {
        let all: Vec<String> = ads.iter().map(|(ad, clicks)| format!("{} {}", escaped(ad), number(*clicks))).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join("<br>") }
    };
    let rows = report.rankings.iter().map(|ranking| {
        vec![
            format!("{} min to {}", ranking.window, minute(ranking.minute)),
            ranking.filter.to_string(),
            ranking.kind.name().to_owned(),
            ranking.place.to_string(),
            places(&ranking.raw),
            ranking.stored.as_deref().map_or_else(|| "no such ranking".to_owned(), places),
        ]
    });
    let all = report.rankings.len() as u64 + report.left_out.rankings;
    table(&["window", "filter", "why", "#first place", "raw around it", "stored around it"], rows, all)
}

fn lines_behind(report: &Report) -> String {
    if report.lines_behind.is_empty() {
        return String::new();
    }
    let rows = report.lines_behind.iter().map(|line| {
        let place = match (&line.file, line.byte_offset) {
            (Some(file), Some(byte)) => format!("{} at byte {byte}", escaped(file)),
            (Some(file), None) => escaped(file),
            (None, _) => "not known".to_owned(),
        };
        let record = format!("{} offset {} line {}", escaped(&line.partition), line.offset, line.line_number);
        let late = if line.late { "late" } else { "" };
        vec![minute(line.minute), line.filter.to_string(), escaped(&line.ad_id), late.to_owned(), place, record]
    });
    table(&["minute", "filter", "ad", "", "log file", "record"], rows, report.lines_behind.len() as u64)
}

fn disagreements(report: &Report) -> String {
    let found = report.disagreements();
    if found.is_empty() {
        return String::new();
    }
    let examples: String = found.examples.iter().map(|example| format!("<li>{}</li>", escaped(example))).collect();
    format!(
        "<p>{} lines that are clicks were refused, {} that are none were taken for clicks, and {} were counted in another minute than they tell. One of the two readers is wrong.</p><ul>{examples}</ul>",
        number(found.refused),
        number(found.accepted),
        number(found.moved)
    )
}

fn read(report: &Report) -> String {
    let (lines, files) = (&report.lines, &report.files);
    let mut out = format!(
        "<p>{} counts, {} totals and {} rankings were compared. {} files were read, {} passed over since others hold their lines. {} clicks, {} of them told again.</p>",
        number(report.compared.counts),
        number(report.compared.totals),
        number(report.compared.rankings),
        number(files.read),
        number(files.covered),
        number(lines.clicks),
        number(lines.duplicates)
    );
    if lines.across_partitions > 0 {
        let examples: String = lines.across_examples.iter().map(|one| format!("<li>{}</li>", escaped(one))).collect();
        let _ = write!(
            out,
            "<p>{} clicks were told in several partitions, where duplicates are not removed: they count in each. (input.partition_by may not be what producers do.)</p><ul>{examples}</ul>",
            number(lines.across_partitions)
        );
    }
    if !files.skipped.is_empty() {
        let skipped: String = files
            .skipped
            .iter()
            .map(|file| format!("<li>{}: {}</li>", escaped(&file.path), escaped(&file.why)))
            .collect();
        let _ = write!(out, "<p><b>Left out, as asked:</b></p><ul>{skipped}</ul>");
    }
    out
}

/// The page of all reports.
pub(super) fn index(history: &History) -> String {
    let mut out = String::from("<h1>Reconciliations</h1>\n");
    let trend = history.trend();
    let days = trend.get(trend.len().saturating_sub(MOST_DAYS)..).unwrap_or_default();
    let drifts: Vec<(String, f64)> = days.iter().map(|entry| (minute(entry.from), entry.drift())).collect();
    section(&mut out, "Drift, span by span: clicks too many above the line, missing below", &chart(&drifts));
    let rows = history.reports.iter().rev().map(|entry| {
        let (_, verdict) = verdict_of(entry.verdict);
        let link =
            format!("<a href=\"{0}.html\">{1} to {2}</a>", escaped(&entry.name), minute(entry.from), minute(entry.to));
        let verdict = if entry.repaired { format!("{verdict} (repaired)") } else { verdict.to_owned() };
        let rate = entry.rate.map_or_else(|| "–".to_owned(), percent);
        vec![
            link,
            escaped(&entry.made_at),
            verdict,
            number(entry.differing),
            number(entry.lacks),
            number(entry.surplus),
            rate,
        ]
    });
    let heads = ["span", "made", "verdict", "#figures that differ", "#clicks missing", "#clicks too many", "#share"];
    section(&mut out, "Reports, newest first", &table(&heads, rows, history.reports.len() as u64));
    document("Reconciliations", &out)
}

/// Bars above and below a line.
fn chart(drifts: &[(String, f64)]) -> String {
    let most = drifts.iter().map(|(_, drift)| drift.abs()).fold(0.0, f64::max);
    let width = drifts.len() * 10;
    let mut out = format!(
        "<svg viewBox=\"0 0 {width} 80\" width=\"100%\" height=\"120\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Drift of {} spans, at most {}\">\
         <line x1=\"0\" y1=\"40\" x2=\"{width}\" y2=\"40\" stroke=\"#57606a\" stroke-width=\".5\"/>",
        drifts.len(),
        percent(most)
    );
    for (place, (when, drift)) in drifts.iter().enumerate() {
        // A day without drift is a dot on the line, so that one that is not there is seen.
        let height = if most > 0.0 { (drift.abs() / most * 38.0).max(1.0) } else { 1.0 };
        let top = if *drift >= 0.0 { 40.0 - height } else { 40.0 };
        let colour = if *drift == 0.0 { "#1a7f37" } else { "#cf222e" };
        let _ = write!(
            out,
            "<rect x=\"{}\" y=\"{top:.2}\" width=\"8\" height=\"{height:.2}\" fill=\"{colour}\"><title>{when}: {}</title></rect>",
            place * 10 + 1,
            percent(*drift)
        );
    }
    out + &format!("</svg><p class=\"dim\">At most {}.</p>", percent(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_lines_is_no_markup() {
        assert_eq!(escaped("<b a=\"1\">'&\u{1}"), "&lt;b a=&quot;1&quot;&gt;&#39;&amp;\u{fffd}");
    }

    #[test]
    fn numbers_are_read_in_threes() {
        let check = |n: u64, expected: &str| assert_eq!(number(n).replace('\u{2009}', " "), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1 000");
        check(1_234_567, "1 234 567");
    }

    #[test]
    fn what_is_left_out_of_a_table_is_counted() {
        let rows = || (0..300).map(|n: u32| vec![n.to_string()]);
        assert!(table(&["#n"], rows(), 5000).contains("4\u{2009}800 more are not shown"));
        assert!(!table(&["#n"], rows().take(3), 3).contains("more are"));
    }
}
