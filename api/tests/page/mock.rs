//! An API of a few fixed figures, over plain HTTP, that can be changed, made to fail, and taken away.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use clickmill_api::PAGE;
use serde_json::{Value, json};

/// What the API answers.
pub(crate) struct World {
    /// `/v1/status`, as it stands.
    pub(crate) status: Value,
    /// The ranking that ends with the last complete minute, by filter.
    pub(crate) rankings: Vec<Vec<(String, u64)>>,
    /// The ranking of every other range.
    pub(crate) before: Vec<(String, u64)>,
    /// Put into every answer with figures.
    pub(crate) complete: bool,
    /// Put into every ranking.
    pub(crate) exact: bool,
    /// `/v1/rejected` and `/v1/late`.
    pub(crate) lines: Value,
    /// Answer every request below `/v1` with this status.
    pub(crate) fail: Option<u16>,
}

/// Noon of a day in 2026: twelve hundred lines read, complete until 12:05, two filters.
pub(crate) fn a_good_day() -> World {
    let ads = |counts: &[(&str, u64)]| counts.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect::<Vec<_>>();
    World {
        status: json!({
            "now": "2026-01-01T12:05:40Z",
            "definition": {"version": 3, "n": 100, "windows": [1, 5, 60], "filters": []},
            "watermark": "2026-01-01T12:05:06Z", "complete_until": 202601011205_u64, "rankings_complete_until": 202601011205_u64,
            "delay_seconds": 34.0,
            "books": {"lines": 1_234_567, "counted": 1_230_000, "duplicates": 4_000, "late": 67, "rejected": 500,
                      "rejected_by_reason": {"bad_ip": 300, "bad_timestamp": 200}},
            "stages": [
                {"name": "log-watcher", "state": "running", "detail": "", "lag_records": null, "since": "2026-01-01T12:00:00Z"},
                {"name": "mapper", "state": "running", "detail": "", "lag_records": 7, "since": "2026-01-01T12:00:00Z"},
            ],
            "sources": [], "revisions": [], "last_reconciliation": null, "store": "ok",
        }),
        rankings: vec![
            ads(&[("ad001", 12_345), ("ad003", 800), ("ad002", 700), ("ad009", 5)]),
            ads(&[("usa1", 99), ("ad001", 9)]),
        ],
        before: ads(&[("ad001", 6_172), ("ad002", 1_400), ("ad003", 800)]),
        complete: true,
        exact: true,
        lines: json!([]),
        fail: None,
    }
}

/// The server. It stops when it is dropped.
pub(crate) struct Mock {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
    requests: Arc<Mutex<Vec<String>>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Mock {
    pub(crate) fn serve(world: World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut mock = Self {
            address: listener.local_addr().unwrap(),
            world: Arc::new(Mutex::new(world)),
            requests: Arc::default(),
            running: None,
        };
        mock.run(listener);
        mock
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Every request so far, path and query.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Nobody listens any more.
    pub(crate) fn go_away(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            let _ = TcpStream::connect(self.address);
            thread.join().unwrap();
        }
    }

    /// Back, at the same address.
    pub(crate) fn come_back(&mut self) {
        self.run(TcpListener::bind(self.address).unwrap());
    }

    fn run(&mut self, listener: TcpListener) {
        let stop = Arc::new(AtomicBool::new(false));
        let (world, requests, stopped) = (self.world.clone(), self.requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (world, requests) = (world.clone(), requests.clone());
                // A browser opens connections that it may never use: one thread each.
                std::thread::spawn(move || answer(&stream, &world, &requests));
            }
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn answer(mut stream: &TcpStream, world: &Mutex<World>, requests: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    for line in lines {
        if line.is_empty() {
            break;
        }
    }
    requests.lock().unwrap().push(target.clone());
    let (status, kind, body) = if target == "/" {
        (200, "text/html; charset=utf-8", PAGE.to_owned())
    } else {
        let (status, json) = route(&target, &world.lock().unwrap());
        (status, if status == 200 { "application/json" } else { "application/problem+json" }, json.to_string())
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} .\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn route(target: &str, world: &World) -> (u16, Value) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name).map(|pair| pair.1)
    };
    let whole = |name: &str| parameter(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let (from, to) = (whole("from"), whole("to"));
    let until = &world.status["complete_until"];
    if let Some(status) = world.fail {
        return (
            status,
            json!({"title": "Service Unavailable", "status": status, "detail": "the store cannot be read"}),
        );
    }
    let figures = match path {
        "/v1/status" => world.status.clone(),
        "/v1/filters" => json!({"filters": [
            {"id": 0, "name": "all", "country": [], "exclude_country": [], "ip": [], "user_id": [], "from": null, "until": null},
            {"id": 1, "name": "USA", "country": ["USA"], "exclude_country": [], "ip": [], "user_id": [], "from": 202601010000_u64, "until": null},
        ]}),
        "/v1/rejected" | "/v1/late" => json!({"lines": world.lines}),
        "/v1/ads/popular_ads" => {
            let known = usize::try_from(whole("filter")).ok().and_then(|filter| world.rankings.get(filter));
            let Some(current) = known else {
                return (
                    404,
                    json!({"title": "Unknown filter", "status": 404, "detail": "there is no such filter", "parameter": "filter"}),
                );
            };
            let ranking = if *until == json!(to) { current } else { &world.before };
            let (ads, counts): (Vec<_>, Vec<_>) =
                ranking.iter().take(usize::try_from(whole("n")).unwrap()).cloned().unzip();
            let bound = if world.exact { Value::Null } else { json!(4) };
            json!({"ad_ids": ads, "counts": counts, "from": from, "to": to, "filter": whole("filter"), "n": whole("n"),
                   "exact": world.exact, "complete": world.complete, "bound": bound})
        }
        _ if path.ends_with("/aggregated_count") => {
            json!({"ad_id": "?", "count": 4_242, "from": from, "to": to, "filter": whole("filter"),
                   "complete": world.complete, "complete_until": until})
        }
        _ if path.ends_with("/counts") => {
            json!({"ad_id": "?", "filter": whole("filter"), "from": from, "to": to, "step": parameter("step"),
                   "counts": [{"minute": 202601011200_u64, "count": 17}, {"minute": 202601011204_u64, "count": 23}],
                   "complete": world.complete, "complete_until": until})
        }
        _ => return (404, json!({"title": "Not found", "status": 404})),
    };
    (200, figures)
}
