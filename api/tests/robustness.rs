//! What happens to requests that are wrong, to clients that misbehave, and while the store is away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where anything fails")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clickmill_api::{Limits, RunState, StageBoard};
use clickmill_model::Timestamp;
use support::{Answer, MapStore, Server, metrics, sources, wait_until};

fn server() -> Server {
    Server::of(Arc::new(MapStore::complete_until("202101010003")))
}

fn with(limits: Limits) -> Server {
    Server::with(limits, sources(Arc::new(MapStore::complete_until("202101010003")), None))
}

const COUNT: &str = "/v1/ads/ad001/aggregated_count";

#[test]
fn a_wrong_request_is_told_what_is_wrong() {
    let server = server();
    let check = |path: &str, status: u16, parameter: Option<&str>| {
        assert_eq!(server.get(path).problem(), (status, parameter.map(str::to_owned)), "{path}");
    };
    check(&format!("{COUNT}?from=202101010061"), 400, Some("from"));
    check(&format!("{COUNT}?to=202101012400"), 400, Some("to"));
    check(&format!("{COUNT}?from=202101010001&to=202101010001"), 400, Some("to"));
    check(&format!("{COUNT}?from=202101010001&to=202101010000"), 400, Some("to"));
    check(&format!("{COUNT}?from=201901010000&to=202101010000"), 400, Some("to"));
    check(&format!("{COUNT}?from=201901010000"), 400, Some("to"));
    check(&format!("{COUNT}?filter=7"), 404, Some("filter"));
    check(&format!("{COUNT}?filter=99999"), 404, Some("filter"));
    check(&format!("{COUNT}?filter=USA"), 400, Some("filter"));
    check(&format!("{COUNT}?filter=0&filter=0"), 400, Some("filter"));
    check(&format!("{COUNT}?n=5"), 400, Some("n"));
    check(&format!("{COUNT}?from=2021%0A"), 400, Some("from"));
    check("/v1/ads/popular_ads?n=0", 400, Some("n"));
    check("/v1/ads/popular_ads?n=-1", 400, Some("n"));
    check("/v1/ads/popular_ads?n=1001", 400, Some("n"));
    check("/v1/ads/popular_ads?n=18446744073709551616", 400, Some("n"));
    check("/v1/ads/popular_ads?filter=7", 404, Some("filter"));
    check("/v1/ads/ad001/counts?step=second", 400, Some("step"));
    check("/v1/rejected?limit=201", 400, Some("limit"));
    check("/v1/status?verbose=1", 400, Some("verbose"));
    check("/v1/late", 503, None);
    for path in ["/v2", "/v1/ads", "/v1/ads/ad001", "/v1/ads/ad001/aggregated_count/", "//", "/index.html", "/v1/%FF"] {
        check(path, 404, None);
    }
}

#[test]
fn other_methods_are_told_which_one_is_right() {
    let server = server();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        for path in ["/", COUNT, "/metrics", "/openapi.json", "/healthz"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answer = server.send(&request);
            assert_eq!(answer.problem(), (405, None), "{method} {path}");
            assert_eq!(answer.header("allow"), Some("get,head"), "{method} {path}");
        }
    }
    let answer = server.send(&format!("HEAD {COUNT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[test]
fn what_is_too_large_is_refused_by_its_name() {
    let server = server();
    let close = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let headers = |n: usize, bytes: usize| -> String {
        let value = "v".repeat(bytes);
        (0..n).map(|i| format!("h{i}: {value}\r\n")).collect()
    };
    let get = |url: &str, more: &str| server.send(&format!("GET {url} {close}{more}\r\n")).problem();
    for bytes in [9 << 10, 30 << 10, 70 << 10, 3 << 20] {
        assert_eq!(get(&format!("/v1/ads/{}/counts", "a".repeat(bytes)), ""), (414, None), "{bytes}");
        assert_eq!(get(COUNT, &headers(1, 2 * bytes)), (431, None), "{bytes}");
    }
    assert_eq!(get(COUNT, &headers(200, 10)), (431, None));
    assert_eq!(get(COUNT, &headers(50, 400)), (431, None));
    assert_eq!(get(COUNT, "Content-Length: 5\r\n\r\nhello"), (413, None));
    assert_eq!(get(COUNT, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"), (413, None));
    assert_eq!(get(COUNT, &format!("Content-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000))), (413, None));
    let answer = server.send(&format!("GET {COUNT} {close}Content-Length: 0\r\n\r\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn what_is_no_http_is_a_problem_too() {
    let server = server();
    for bytes in
        ["hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nbroken header\r\n\r\n", "\u{1}\u{2}\r\n\r\n"]
    {
        assert_eq!(server.send(bytes).problem(), (400, None), "{bytes:?}");
    }
    for (line, expected) in [
        ("OPTIONS * HTTP/1.1", 404),
        ("CONNECT example.com:443 HTTP/1.1", 404),
        ("POST http://example.com/healthz HTTP/1.1", 405),
        ("GET healthz HTTP/1.1", 404),
    ] {
        let answer = server.send(&format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.problem(), (expected, None), "{line}");
    }
    // The second request of a connection may be the wrong one.
    let mut stream = server.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nno http\r\n\r\n").unwrap();
    let mut both = String::new();
    stream.read_to_string(&mut both).ok();
    let (first, second) = both.split_once("HTTP/1.1 400 Bad Request").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 OK") && second.contains("urn:clickmill:malformed-request"), "{both}");
}

#[test]
fn while_the_store_is_away_requests_get_503_without_internals() {
    let store = Arc::new(MapStore::complete_until("202101010003"));
    let server = Server::of(Arc::clone(&store));
    assert_eq!(server.get("/readyz").status, 200);
    store.broken.store(true, Ordering::Relaxed);
    for path in ["/readyz", COUNT, "/v1/ads/popular_ads", "/v1/ads/ad001/counts"] {
        let answer = server.get(path);
        assert_eq!(answer.problem(), (503, None), "{path}");
        assert!(!answer.body.contains("secret") && !answer.body.contains("fire"), "{}", answer.body);
    }
    assert_eq!(server.get("/healthz").status, 200, "the process is well");
    store.broken.store(false, Ordering::Relaxed);
    assert_eq!(server.get(COUNT).status, 200);
}

#[test]
fn a_store_that_hangs_holds_up_nothing_else() {
    let store = Arc::new(MapStore::complete_until("202101010003"));
    let limits = Limits { quick_reads: 1, waiting_reads: 2, patience: Duration::from_millis(300), ..Limits::default() };
    let server = Server::with(limits, sources(Arc::clone(&store), None));
    let pause = store.pause.lock();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..10).map(|_| scope.spawn(|| server.get(COUNT).problem().0)).collect();
        assert_eq!(server.get("/healthz").status, 200);
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(statuses.contains(&429) && statuses.contains(&503), "{statuses:?}");
    drop(pause);
    wait_until("it answers again", || server.get(COUNT).status == 200);
}

fn closed(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

#[test]
fn a_slow_or_idle_client_is_let_go() {
    let server = with(Limits { idle: Duration::from_millis(200), ..Limits::default() });
    let silent = server.connect();
    let mut slow = server.connect();
    slow.write_all(b"GET /healthz HT").unwrap();
    let mut kept = server.connect();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    kept.read_exact(&mut [0; 15]).unwrap();
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest).unwrap();
    wait_until("all are closed", || closed(&silent) && closed(&slow));
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn idle_connections_make_room_for_others() {
    let server = with(Limits { connections: 40, ..Limits::default() });
    let idle: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    for _ in 0..50 {
        assert_eq!(server.get(COUNT).status, 200);
    }
    wait_until("most are closed", || idle.iter().filter(|stream| closed(stream)).count() >= 260);
}

#[test]
fn where_all_connections_are_busy_another_one_is_told_so() {
    let store = Arc::new(MapStore::complete_until("202101010003"));
    let server = Server::with(Limits { connections: 3, ..Limits::default() }, sources(Arc::clone(&store), None));
    let pause = store.pause.lock();
    let mut busy: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut busy {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    }
    wait_until("all are being answered", || store.asked.load(Ordering::Relaxed) == 3);
    // Sends nothing, so that no unread request turns the refusal into a reset.
    wait_until("a fourth is refused", || {
        let mut stream = server.connect();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("urn:clickmill:unavailable")
    });
    drop(pause);
    for stream in busy {
        assert_eq!(Answer::read(stream).status, 200, "who was there is answered");
    }
}

#[test]
fn a_client_that_reads_nothing_is_dropped() {
    let store = MapStore::complete_until("202101010003");
    let limits = Limits { stalled_write: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(limits, sources(Arc::new(store), None));
    let mut stream = server.connect();
    let path = "/v1/ads/ad001/counts?from=202101010000&to=202103010000";
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(40);
    stream.write_all(request.as_bytes()).unwrap();
    wait_until("it is dropped", || {
        stream.set_nonblocking(true).unwrap();
        // Writing into a dropped connection fails; before, the request just waits.
        let failed = stream.write_all(b"x").is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
        failed
    });
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn stopping_answers_what_was_asked_and_waits_for_nobody_else() {
    let store = Arc::new(MapStore::complete_until("202101010003"));
    let mut server = Server::of(Arc::clone(&store));
    let idle: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    let pause = store.pause.lock();
    let mut asking = server.connect();
    asking.write_all(format!("GET {COUNT} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    wait_until("it is being answered", || store.asked.load(Ordering::Relaxed) > 0);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| {
            let began = Instant::now();
            server.stop();
            began.elapsed()
        });
        wait_until("idle ones are closed", || idle.iter().all(closed));
        drop(pause);
        assert_eq!(Answer::read(asking).status, 200);
        assert!(stopping.join().unwrap() < Duration::from_secs(4));
    });
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn the_page_and_the_metrics_are_served() {
    let server = server();
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("</html>"));
    server.get("/no/such/path");
    server.get(COUNT);
    let text = server.get("/metrics").body;
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value(r#"clickmill_http_requests_total{route="unmatched",status="404"}"#) >= 1.0);
    let route = r#"{route="/v1/ads/{ad_id}/aggregated_count""#;
    assert!(value(&format!("clickmill_http_request_duration_seconds_bucket{route},le=\"+Inf\"}}")) >= 1.0);
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(!text.contains("no/such/path"), "labels are bounded");
}

#[test]
fn a_stage_alone_serves_its_health_and_metrics() {
    let board = Arc::new(StageBoard::new());
    board.set("mapper", RunState::Starting, "", Timestamp::EPOCH);
    let stages = Arc::clone(&board);
    let server = Server::run(move |listener, stopped| async move {
        clickmill_api::serve_ops(listener, metrics(), stages, stopped).await.unwrap();
    });
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/readyz").problem(), (503, None));
    board.set("mapper", RunState::Running, "", Timestamp::EPOCH);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(server.get("/").problem(), (404, None));
}
