//! The dashboard in a real browser, against an API whose figures are known.

// What clippy.toml lets a test do, its helpers may do too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod browser;
mod mock;

use browser::{Browser, DEADLINE, DOWN, ENTER, ESCAPE, LEFT, TAB};
use mock::{Mock, World, a_good_day};
use serde_json::{Value, json};

/// The rows of the ranking as text, cells separated by a bar.
const ROWS: &str = "return [...document.querySelectorAll('#ranking tbody tr')].map((row) => [...row.cells]
    .map((cell) => cell.innerText.replaceAll('\\u202f', ' ').replace(/\\s+/g, ' ').trim()).join('|'))";

const STATE: &str = "return document.documentElement.dataset.state";

fn open(world: World) -> (Mock, Browser) {
    let mock = Mock::serve(world);
    let browser = Browser::at(&mock.url());
    (mock, browser)
}

/// Waits for a request with this path and all of these parameters.
fn wait_for_request(mock: &Mock, path: &str, parameters: &[&str]) {
    let start = std::time::Instant::now();
    let is_it = |request: &String| {
        let (at, query) = request.split_once('?').unwrap_or((request, ""));
        at == path && parameters.iter().all(|parameter| query.split('&').any(|pair| pair == *parameter))
    };
    while !mock.requests().iter().any(is_it) {
        assert!(start.elapsed() < DEADLINE, "no {path} with {parameters:?}: {:?}", mock.requests());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Has the page ask at once, as it does when it comes into view.
fn ask_now(browser: &Browser) {
    browser.run("document.dispatchEvent(new Event('visibilitychange'))");
}

#[test]
fn the_ranking_shows_counts_moves_and_changes() {
    let (mock, browser) = open(a_good_day());
    browser.wait(
        ROWS,
        &json!([
            "1|= same|ad001|12 345|+100%",
            "2|▲1 up 1|ad003|800|0%",
            "3|▼1 down 1|ad002|700|−50%",
            "4|new new|ad009|5|–"
        ]),
    );
    wait_for_request(&mock, "/v1/ads/popular_ads", &["from=202601011200", "to=202601011205", "filter=0", "n=20"]);
    wait_for_request(&mock, "/v1/ads/popular_ads", &["from=202601011155", "to=202601011200", "filter=0", "n=100"]);
    browser.wait_for_text("#ranking-range", "12:00 – 12:05 UTC");
    for (selector, text) in [
        ("#t-complete", "12:05"),
        ("#t-delay", "34 s"),
        ("#t-counted", "1 230 000"),
        ("#t-duplicates", "4 000"),
        ("#t-late", "67"),
        ("#t-rejected", "500"),
        ("#version", "definition 3"),
        ("#state", "Live."),
        ("#stages tbody tr:nth-child(2)", "mapper running 7"),
    ] {
        browser.wait_for_text(selector, text);
    }
}

#[test]
fn the_last_reconciliation_is_told_in_words() {
    let verdict = |differing: u64, lacks: u64, verdict: &str, report: Option<&str>| {
        json!({"verdict": verdict, "from": 202512310000_u64, "to": 202601010000_u64, "made_at": "2026-01-01T02:00:07Z",
               "differing": differing, "raw_clicks": 1_234_567, "lacks": lacks, "surplus": 1, "report": report})
    };
    let day = " in 2025-12-31 00:00 to 2026-01-01 00:00 UTC, of 1 234 567 clicks reconciled 2026-01-01 02:00 UTC";
    for (verdict, text) in [
        (verdict(0, 0, "agrees", None), format!("rec every figure is right{day}")),
        (
            verdict(12, 40, "differs", Some("/var/r.html")),
            format!("rec 12 figures differ, 40 clicks missing, 1 click too many{day}, report /var/r.html"),
        ),
        (
            verdict(1, 0, "within_threshold", None),
            format!("rec 1 figure differs, within the threshold, 1 click too many{day}"),
        ),
    ] {
        let mut world = a_good_day();
        world.status["last_reconciliation"] = verdict;
        let (_mock, browser) = open(world);
        browser.wait_for_text("#history", &text);
    }
}

#[test]
fn a_filter_that_was_chosen_is_asked_for_and_stays_in_the_address() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "ad003");
    browser.click("#filter option[value='1']");
    browser.wait_for_text("#ranking tbody", "usa1");
    wait_for_request(&mock, "/v1/ads/popular_ads", &["filter=1"]);
    assert_eq!(browser.text("#predicate"), "country USA · from 2026-01-01 00:00 UTC");
    browser.wait("return location.hash", &json!("#filter=1"));
    browser.go("about:blank");
    browser.go(&format!("{}#filter=1&time=60&n=10", mock.url()));
    browser.wait("return [...document.querySelectorAll('select')].map((select) => select.value)", &json!(["1", "10"]));
    browser.wait_for_text("#ranking tbody", "usa1");
    wait_for_request(&mock, "/v1/ads/popular_ads", &["filter=1", "from=202601011105", "to=202601011205", "n=10"]);
    browser.click("#filter option[value='0']");
    browser.wait_for_text("#ranking tbody", "ad003");
    browser.back();
    browser.wait_for_text("#ranking tbody", "usa1");
}

#[test]
fn an_unknown_filter_in_the_address_is_named() {
    let mock = Mock::serve(a_good_day());
    let browser = Browser::at(&format!("{}#filter=77", mock.url()));
    browser.wait_for_text("#ranking-empty", "Unknown filter: there is no such filter");
    browser.wait("return document.querySelector('#filter').value", &json!("77"));
}

#[test]
fn a_range_is_asked_for_when_it_is_whole_and_right() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "ad003");
    browser.click("#windows input[value=custom]");
    let set = |from: &str, to: &str| {
        browser.run(&format!("for (const [id, text] of [['from', {from:?}], ['to', {to:?}]]) {{
            const input = document.getElementById(id); input.value = text; input.dispatchEvent(new Event('input', {{ bubbles: true }})); }}"));
        browser.click("#custom [type=submit]");
    };
    set("2026-01-01T10:00", "2026-01-01T09:00");
    browser.wait_for_text("#custom-error", "must end after it begins");
    set("2024-01-01T10:00", "2026-01-01T09:00");
    browser.wait_for_text("#custom-error", "366 days");
    assert!(!mock.requests().iter().any(|request| request.contains("0900")), "{:?}", mock.requests());
    set("2025-12-31T22:30", "2026-01-01T09:00");
    browser.wait_for_text("#ranking-range", "2025-12-31 22:30 – 2026-01-01 09:00 UTC");
    wait_for_request(&mock, "/v1/ads/popular_ads", &["from=202512312230", "to=202601010900"]);
    assert_eq!(browser.run("return location.hash"), json!("#from=202512312230&to=202601010900"));
    browser.click("[data-preset=day]");
    browser.wait_for_text("#ranking-range", "2025-12-31 00:00 – 24:00 UTC");
}

#[test]
fn a_row_that_is_clicked_shows_its_chart() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "ad003");
    browser.click("#ranking tbody tr:nth-child(2) td:nth-child(4)");
    browser.wait_for_text("#chart-title", "Clicks per minute of ad003");
    browser.wait_for_text("#f-total", "4 242");
    browser.wait_for_text("#f-rank", "2");
    browser.wait_for_text("#f-peak", "23");
    wait_for_request(
        &mock,
        "/v1/ads/ad003/counts",
        &["from=202601011105", "to=202601011205", "filter=0", "step=minute"],
    );
    wait_for_request(&mock, "/v1/ads/ad003/aggregated_count", &["from=202601011200", "to=202601011205", "filter=0"]);
    browser.hover("#plot");
    browser.wait_for_text("#tip", "0 clicks, 11:3");
    browser.run("document.querySelector('#table').open = true");
    browser.wait_for_text("#table tbody tr", "2026-01-01 12:04 23");
    assert_eq!(browser.run("return document.querySelectorAll('#table tbody tr').length"), json!(60));
}

#[test]
fn an_ad_that_was_typed_is_asked_for_whatever_its_name() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "ad003");
    for (typed, path) in
        [("a/b%?é c", "/v1/ads/a%2Fb%25%3F%C3%A9%20c/counts"), ("popular_ads", "/v1/ads/popular_ads/counts")]
    {
        browser.run("document.querySelector('#ad').value = ''");
        browser.type_into("#ad", &format!("{typed}{ENTER}"));
        browser.wait_for_text("#ad-name", typed);
        browser.wait_for_text("#f-total", "4 242");
        wait_for_request(&mock, path, &["step=minute"]);
    }
    browser.wait_for_text("#f-rank", "below 4");
    browser.run("document.querySelector('#ad').value = ''");
    browser.type_into("#ad", &format!("..{ENTER}"));
    browser.wait_for_text("#plot", "cannot be asked for");
    browser.wait(STATE, &json!("live"));
}

#[test]
fn everything_can_be_done_with_the_keyboard() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "ad003");
    let focus = |script: &str| browser.run(&format!("const e = document.activeElement; return {script}"));
    browser.press(&[TAB]);
    assert_eq!(focus("e.textContent"), json!("Skip to the ranking"));
    assert_eq!(focus("e.getBoundingClientRect().top >= 0"), json!(true), "the skip link is seen");
    browser.press(&[ENTER]);
    assert_eq!(focus("e.id"), json!("ranking-title"));
    browser.press(&[TAB, TAB]);
    assert_eq!(focus("e.textContent"), json!("ad001"));
    browser.press(&[DOWN, DOWN, ENTER]);
    browser.wait_for_text("#chart-title", "ad002");
    assert_eq!(focus("e.textContent"), json!("ad002"));
    // A ranking in another order does not take the focus away.
    mock.world().rankings[0].swap(0, 2);
    mock.world().status["definition"]["version"] = json!(4);
    browser.wait("return document.querySelector('#ranking tbody tr').dataset.ad", &json!("ad002"));
    assert_eq!(focus("e.textContent"), json!("ad002"));

    browser.run("document.querySelector('#plot').focus()");
    browser.press(&[LEFT]);
    assert_eq!(focus("e.getAttribute('aria-valuetext')"), json!("12:03 UTC: 0 clicks"));
    browser.run("document.querySelector('[data-show=rejected]').focus()");
    browser.press(&[ENTER]);
    browser.wait("return document.querySelector('#examples').open", &json!(true));
    browser.press(&[ESCAPE]);
    browser.wait("return document.querySelector('#examples').open", &json!(false));
    assert_eq!(focus("e.dataset.show"), json!("rejected"));
}

#[test]
fn every_stop_of_the_tab_key_has_a_name_and_is_seen() {
    let (_mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "ad003");
    let mut stops = Vec::new();
    for _ in 0..40 {
        browser.press(&[TAB]);
        let stop = browser.run(
            "const e = document.activeElement, seen = e.type === 'radio' ? e.nextElementSibling : e;
             return [e.tagName + '#' + e.id + '.' + e.className + (e.dataset.show ?? '') + '=' + (e.value ?? ''), getComputedStyle(seen).outlineStyle]",
        );
        if stop[0].as_str().unwrap().starts_with("BODY") || stops.contains(&stop) {
            break;
        }
        assert_ne!(stop[1], json!("none"), "the focus is not seen at {stop}");
        stops.push(stop);
    }
    assert!(stops.len() >= 12, "{stops:?}");
    let tree = browser.devtools("Accessibility.getFullAXTree", &json!({}));
    let roles = ["button", "link", "textbox", "combobox", "slider", "radio", "table", "region", "dialog", "DateTime"];
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if roles.contains(&role) && node["ignored"] == json!(false) {
            assert!(!node["name"]["value"].as_str().unwrap_or_default().is_empty(), "a {role} without a name: {node}");
        }
    }
}

#[test]
fn an_api_that_goes_away_leaves_figures_that_are_marked_as_old() {
    let (mut mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "12 345");
    mock.go_away();
    browser.wait_for_text("#state", "Not reachable since ");
    browser.wait_for_text("#state", "The figures are old: as of 12:05:40 UTC.");
    browser.wait_for_text("#announce", "Not reachable since ");
    assert_eq!(browser.text("#ranking tbody b"), "12 345");
    assert_eq!(browser.text("#t-counted"), "1 230 000");
    let marks = browser
        .run("return [...document.querySelectorAll('.old')].filter((e) => e.offsetWidth > 0).map((e) => e.innerText)");
    assert_eq!(marks, json!(["as of 12:05:40 UTC", "as of 12:05:40 UTC", "as of 12:05:40 UTC", "as of 12:05:40 UTC"]));
    mock.come_back();
    browser.wait(STATE, &json!("live"));
    mock.world().fail = Some(503);
    browser.wait_for_text("#state", "It answers: Service Unavailable: the store cannot be read.");
    assert_eq!(browser.run(STATE), json!("down"));
}

#[test]
fn a_page_that_never_got_an_answer_says_so() {
    let (_mock, browser) = open(World { fail: Some(503), ..a_good_day() });
    browser.wait_for_text("#ranking-empty", "The API has given none");
}

#[test]
fn the_state_of_the_pipeline_is_told_plainly() {
    let (mock, browser) = open(a_good_day());
    let check = |change: &dyn Fn(&mut Value), state: &str, text: &str| {
        let mut status = a_good_day().status;
        change(&mut status);
        mock.world().status = status;
        ask_now(&browser);
        browser.wait(STATE, &json!(state));
        browser.wait_for_text("#state", text);
    };
    check(&|_| (), "live", "Complete until 12:05 UTC");
    check(
        &|status| status["delay_seconds"] = json!(121.0),
        "stale",
        "The data ends 2 min ago; 7 records wait, and nothing moves.",
    );
    check(&|status| status["stages"][1]["state"] = json!("stopped"), "stale", "mapper is stopped.");
    check(
        &|status| {
            status["stages"][1] =
                json!({"name": "mapper", "state": "failed", "detail": "an offset is missing", "lag_records": 7});
        },
        "failed",
        "mapper has failed. an offset is missing",
    );
    check(
        &|status| {
            status["delay_seconds"] = Value::Null;
            status["watermark"] = Value::Null;
            status["queue"] = json!("unknown");
            status["now"] = json!("2026-01-01T12:08:00Z");
        },
        "stale",
        "The data ends 3 min ago",
    );
    assert_eq!(browser.text("#t-counted"), "–");
    for (lost, text) in
        [("late", "Many clicks come late. 20.0 % of the newest"), ("rejected", "Many lines are rejected.")]
    {
        check(&|_| (), "live", "Live.");
        let more = |status: &mut Value| {
            status["now"] = json!("2026-01-01T12:05:42Z");
            status["books"]["lines"] = json!(1_235_567);
            status["books"][lost] = json!(status["books"][lost].as_u64().unwrap() + 200);
        };
        check(&more, "stale", text);
    }
    check(&|status| status["queue"] = json!("unavailable"), "stale", "The queue cannot be read.");
    check(&|status| status["store"] = json!("unavailable"), "down", "The store cannot be read at the moment.");
    assert_eq!(browser.text("#ranking tbody b"), "12 345");
    let empty = |status: &mut Value| {
        for name in ["complete_until", "rankings_complete_until", "watermark", "delay_seconds", "definition"] {
            status[name] = Value::Null;
        }
        status["books"] =
            json!({"lines": 0, "counted": 0, "duplicates": 0, "late": 0, "rejected": 0, "rejected_by_reason": {}});
        status["stages"][0]["detail"] = json!("no file matches /x/*.log");
    };
    check(&empty, "empty", "No data yet.");
    browser.wait_for_text("#ranking-empty", "clickmill up --demo");
    browser.wait_for_text("#ranking-empty", "no file matches /x/*.log");
    let rejected = |status: &mut Value| {
        empty(status);
        status["books"]["lines"] = json!(9);
        status["books"]["rejected"] = json!(9);
    };
    check(&rejected, "empty", "No minute is complete yet.");
    browser.click("#ranking-empty [data-show=rejected]");
    browser.wait_for_text("#examples-title", "Rejected lines");
}

#[test]
fn figures_that_are_not_complete_or_not_exact_are_marked() {
    let (_mock, browser) = open(World { complete: false, ..a_good_day() });
    browser.wait_for_text("#ranking-mark", "not complete");
    browser.wait_for_text("#chart-mark", "not complete");
    drop(browser);
    let (_mock, browser) = open(World { exact: false, ..a_good_day() });
    browser.wait_for_text("#ranking-mark", "approximate");
    browser.wait_for_text("#ranking-note", "an ad that is not listed may have up to 4 clicks");
}

#[test]
fn lines_set_aside_are_listed_with_where_they_came_from() {
    let mut world = a_good_day();
    world.lines = json!([
        {"topic": "ad-clicks", "partition": 3, "offset": 4711, "line_number": 2, "arrival": "2026-01-01T12:00:01.5Z", "source": "web-17",
         "file": "/var/log/a.log", "byte_offset": 1024, "reason": "bad_ip", "line": "[AdClickEvent] <i>x</i>\u{0}, 999.1.1.1"},
        {"topic": "ad-clicks", "partition": 0, "offset": 1, "line_number": 0, "arrival": "2026-01-01T12:00:00Z", "source": null,
         "file": null, "byte_offset": null, "reason": "bad_timestamp", "line": ""},
    ]);
    let mock = Mock::serve(world);
    let browser = Browser::at(&format!("{}#lines=rejected", mock.url()));
    browser.wait_for_text("#lines li", "wrong IP address web-17: /var/log/a.log, byte 1024");
    browser.wait_for_text("#lines li pre", "[AdClickEvent] <i>x</i>⟨U+0000⟩, 999.1.1.1");
    browser.wait_for_text("#lines li small", "ad-clicks/3 offset 4711, line 2 · arrived 2026-01-01 12:00:01 UTC");
    browser.wait_for_text("#lines li:nth-child(2)", "impossible time from a foreign producer");
    browser.wait_for_text("#reasons", "impossible time 200");
    browser.click("[data-reason=bad_timestamp]");
    browser.wait("return document.querySelectorAll('#lines li').length", &json!(1));
    browser.click("#examples [value=late]");
    browser.wait_for_text("#examples-title", "Late clicks");
    assert!(mock.requests().iter().any(|request| request.starts_with("/v1/late?limit=")));
    browser.click("#close");
    browser.wait("return location.hash", &json!(""));
}

#[test]
fn the_page_refreshes_by_itself_unless_it_is_paused_or_hidden() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#ranking tbody", "12 345");
    let minute_later = |minute: u64| {
        let mut world = mock.world();
        world.rankings[0][0].1 += 1;
        for name in ["complete_until", "rankings_complete_until"] {
            world.status[name] = json!(202_601_011_200_u64 + minute);
        }
    };
    minute_later(6);
    browser.wait_for_text("#ranking tbody", "12 346");
    browser.wait_for_text("#announce", "Complete until 12:06 UTC");
    // Hidden: what is under way may still arrive, but no further status is asked for until the page is seen again.
    browser.run(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });
         document.dispatchEvent(new Event('visibilitychange'))",
    );
    minute_later(7);
    let statuses = || mock.requests().iter().filter(|request| *request == "/v1/status").count();
    let (before, start) = (statuses(), std::time::Instant::now());
    while start.elapsed() < std::time::Duration::from_millis(2_500) {
        assert!(statuses() <= before + 1, "a hidden page asks");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))");
    browser.wait_for_text("#ranking tbody", "12 347");
    browser.click("#pause");
    browser.wait_for_text("#state", "Paused at 12:05:40 UTC.");
    minute_later(8);
    browser.click("#pause");
    browser.wait_for_text("#ranking tbody", "12 348");
}

#[test]
fn a_refresh_moves_nothing_on_the_page() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#f-total", "4 242");
    browser.run(
        "window.shift = 0;
         new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shift += entry.value; }).observe({ type: 'layout-shift' })",
    );
    {
        let mut world = mock.world();
        world.rankings[0].swap(1, 3);
        world.rankings[0][0].1 = 99_999_999;
        world.status["books"]["lines"] = json!(1_234_567_890_u64);
        for name in ["complete_until", "rankings_complete_until"] {
            world.status[name] = json!(202_601_011_206_u64);
        }
    }
    browser.wait_for_text("#ranking tbody", "99 999 999");
    browser.wait_for_text("#chart-range", "12:06");
    mock.world().status["delay_seconds"] = json!(500.0);
    browser.wait(STATE, &json!("stale"));
    let shift = browser.run("return window.shift").as_f64().unwrap();
    assert!(shift < 0.01, "the layout moved by {shift}");
}

#[test]
fn markup_in_an_ad_id_stays_text() {
    let id = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>";
    let mut world = a_good_day();
    world.rankings[0] =
        vec![(id.to_owned(), 9), ("\"'><svg onload=window.hit=1>".to_owned(), 8), ("a\u{202e}b".to_owned(), 7)];
    world.status["stages"][0] = json!({"name": id, "state": "failed", "detail": id, "lag_records": 1});
    let (mock, browser) = open(world);
    browser.wait_for_text("#ranking tbody tr", id);
    browser.wait_for_text("#ad-name", id);
    browser.wait_for_text("#state", id);
    browser.wait_for_text("#ranking tbody tr:nth-child(3)", "a⟨U+202E⟩b");
    browser.click("#ranking tbody tr:nth-child(2) button");
    browser.wait_for_text("#f-rank", "2");
    browser.go("about:blank");
    browser.go(&format!("{}#ad=%3Cimg%20src%3Dx%20onerror%3D%22window.hit%3D1%22%3E&filter=%3Cb%3E", mock.url()));
    browser.wait_for_text("#ad-name", "<img src=x onerror=\"window.hit=1\">");
    assert_eq!(
        browser.run("return [window.hit ?? null, document.querySelectorAll('main img, main script').length]"),
        json!([null, 0])
    );
}

#[test]
fn the_page_talks_to_nobody_else_and_logs_nothing() {
    let (mock, browser) = open(a_good_day());
    browser.wait_for_text("#f-total", "4 242");
    browser.click("[data-show=late]");
    browser.wait_for_text("#examples-note", "Clicks whose minute");
    browser.click("#close");
    let strangers: Vec<_> = browser
        .requests()
        .into_iter()
        .filter(|url| !url.starts_with(&mock.url()) && !url.starts_with("data:"))
        .collect();
    assert_eq!(strangers, Vec::<String>::new());
    // Where this complains about the policy: it says the hash that belongs into the page's head.
    assert_eq!(browser.log(), Vec::<String>::new());
    assert!(
        mock.requests().iter().all(|request| request == "/" || request.starts_with("/v1/")),
        "{:?}",
        mock.requests()
    );
}

#[test]
fn nothing_is_wider_than_a_phone() {
    let mut world = a_good_day();
    let long = "x".repeat(200);
    world.rankings[0].extend((0..30).map(|i| (format!("{i}{long}"), 4)));
    world.rankings[0][0].1 = 123_456_789_012;
    world.status["books"]["lines"] = json!(123_456_789_012_u64);
    world.status["stages"][1] =
        json!({"name": "mapper", "state": "failed", "detail": long, "lag_records": 123_456_789});
    world.lines = json!([{"topic": "ad-clicks", "partition": 3, "offset": 4711, "line_number": 2, "arrival": "2026-01-01T12:00:01Z",
        "source": long, "file": long, "byte_offset": 1024, "reason": "bad_ip", "line": long}]);
    let mut mock = Mock::serve(world);
    let browser = Browser::open(390, false);
    browser.go(&format!("{}#n=50&ad=0{long}", mock.url()));
    browser.wait_for_text("#f-total", "4 242");
    let fits = || {
        let wide = browser.run(
            "return [document.documentElement.scrollWidth, ...[...document.querySelectorAll('main, header, .panel, .tile, .tools, table, dialog')]
                .filter((e) => e.getBoundingClientRect().right > 390.5).map((e) => e.id || e.className)]",
        );
        assert_eq!(wide, json!([390]));
    };
    fits();
    browser.click("#windows input[value=custom]");
    fits();
    browser.run("document.querySelector('[data-show=rejected]').click()");
    browser.wait_for_text("#lines li", "wrong IP address");
    fits();
    browser.click("#close");
    mock.go_away();
    browser.wait(STATE, &json!("down"));
    fits();
    drop(browser);

    let mut empty = a_good_day();
    empty.status["complete_until"] = Value::Null;
    empty.status["rankings_complete_until"] = Value::Null;
    empty.status["books"] = json!({"lines": 0});
    let mock = Mock::serve(empty);
    let browser = Browser::open(390, true);
    browser.go(&mock.url());
    browser.wait_for_text("#ranking-empty", "No clicks yet");
    assert_eq!(browser.run("return document.documentElement.scrollWidth"), json!(390));
}

/// Whether there was something to see, and every text that cannot be read well.
const FAINT: &str = include_str!("faint.js");

#[test]
fn text_can_be_read_in_light() {
    every_text_can_be_read(false);
}

#[test]
fn text_can_be_read_in_dark() {
    every_text_can_be_read(true);
}

fn every_text_can_be_read(dark: bool) {
    let lines = json!([{"reason": "bad_ip", "line": "x"}]);
    let mut mock = Mock::serve(World { complete: false, lines, ..a_good_day() });
    let browser = Browser::open(1400, dark);
    browser.go(&format!("{}#filter=1", mock.url()));
    browser.wait_for_text("#f-total", "4 242");
    let background = browser.run("return getComputedStyle(document.body).backgroundColor");
    assert_eq!(background == json!("rgb(13, 17, 22)"), dark, "{background}");
    let check = |state: &str| {
        ask_now(&browser);
        browser.wait(STATE, &json!(state));
        assert_eq!(browser.run(FAINT), json!([true, []]), "{state}");
    };
    check("live");
    mock.world().status["delay_seconds"] = json!(999.0);
    check("stale");
    mock.world().status["stages"][0] = json!({"name": "mapper", "state": "failed", "detail": "x"});
    check("failed");
    browser.click("[data-show=rejected]");
    browser.wait_for_text("#lines li", "wrong IP address");
    check("failed");
    browser.click("#close");
    mock.go_away();
    check("down");
}
