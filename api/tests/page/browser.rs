//! Chromium without a window, driven over the WebDriver protocol.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a condition may take to come true, on a machine with other work.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const TAB: char = '\u{e004}';
pub(crate) const ENTER: char = '\u{e007}';
pub(crate) const ESCAPE: char = '\u{e00c}';
pub(crate) const LEFT: char = '\u{e012}';
pub(crate) const DOWN: char = '\u{e015}';

/// A fresh browser with a profile of its own. It ends when it is dropped.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    agent: ureq::Agent,
    _said: BufReader<ChildStdout>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// A browser whose window is `width` pixels wide, a phone's below 500.
    pub(crate) fn open(width: u32, dark: bool) -> Self {
        const MISSING: &str = "the page's tests need a browser: apt-get install chromium chromium-driver";
        let start = || {
            let mut driver = Command::new("chromedriver")
                .args(["--port=0", "--log-level=SEVERE"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect(MISSING);
            let mut said = BufReader::new(driver.stdout.take().unwrap());
            let port = (&mut said).lines().map_while(Result::ok).find_map(|line| {
                line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_owned())
            });
            if port.is_none() {
                driver.wait().unwrap();
            }
            Some((driver, said, port?))
        };
        // It ends at once where another process took the port that it had chosen for IPv4 and IPv6, as tests that run side by side do.
        let (driver, said, port) = (0..5).find_map(|_| start()).expect("chromedriver says its port");
        let agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(DEADLINE)).build().into();
        let profile = tempfile::tempdir().unwrap();
        let mut browser =
            Self { driver, session: format!("http://127.0.0.1:{port}"), agent, _said: said, _profile: profile };
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &folder,
        ];
        let session = browser.call(
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"args": arguments},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }}}),
        );
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("{MISSING} ({session})"));
        browser.session = format!("{}/session/{id}", browser.session);
        browser.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}),
        );
        let scheme = if dark { "dark" } else { "light" };
        browser.devtools(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
        browser.requests(); // those of the browser's own start page
        browser
    }

    /// A desktop's browser, light, with the page open.
    pub(crate) fn at(url: &str) -> Self {
        let browser = Self::open(1400, false);
        browser.go(url);
        browser
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        let mut response = self.agent.post(format!("{}{path}", self.session)).send_json(body).unwrap();
        let status = response.status();
        let mut answer: Value = response.body_mut().read_json().unwrap();
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].take()
    }

    pub(crate) fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.call("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    pub(crate) fn go(&self, url: &str) {
        self.call("/url", &json!({"url": url}));
    }

    pub(crate) fn back(&self) {
        self.call("/back", &json!({}));
    }

    /// What a function body of JavaScript returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.call("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The visible text of the first element that the selector finds; empty where there is none.
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({})?.innerText ?? ''", json!(selector)));
        // Numbers are grouped by narrow spaces; tabs stand between the cells of a row.
        text.as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits until the script returns `expected`.
    pub(crate) fn wait(&self, script: &str, expected: &Value) {
        let start = Instant::now();
        loop {
            let found = self.run(script);
            if found == *expected {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{script}: {found}, not {expected}; log: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the text of the first element that the selector finds contains `expected`.
    pub(crate) fn wait_for_text(&self, selector: &str, expected: &str) {
        let start = Instant::now();
        loop {
            let found = self.text(selector);
            if found.contains(expected) {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{selector}: {found:?} has no {expected:?}; log: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn element(&self, selector: &str) -> String {
        let found = self.call("/element", &json!({"using": "css selector", "value": selector}));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// A real click in the middle of an element, refused where something covers it.
    pub(crate) fn click(&self, selector: &str) {
        self.call(&format!("/element/{}/click", self.element(selector)), &json!({}));
    }

    /// Types into an element.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        self.call(&format!("/element/{}/value", self.element(selector)), &json!({"text": text}));
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub(crate) fn press(&self, keys: &[char]) {
        let actions: Vec<_> = keys
            .iter()
            .flat_map(|key| {
                [
                    json!({"type": "keyDown", "value": key.to_string()}),
                    json!({"type": "keyUp", "value": key.to_string()}),
                ]
            })
            .collect();
        self.call("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }

    /// Moves the mouse to the middle of an element.
    pub(crate) fn hover(&self, selector: &str) {
        let origin = json!({"element-6066-11e4-a52e-4f735466cecf": self.element(selector)});
        let action = json!({"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0});
        self.call("/actions", &json!({"actions": [{"type": "pointer", "id": "mouse", "actions": [action]}]}));
    }

    /// What the console got since this was last asked for.
    pub(crate) fn log(&self) -> Vec<String> {
        self.entries("browser").iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// The address of every request made for the page since this was last asked for.
    pub(crate) fn requests(&self) -> Vec<String> {
        let messages = self.entries("performance");
        let events =
            messages.iter().map(|entry| serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap());
        events
            .filter(|event| event["message"]["method"] == "Network.requestWillBeSent")
            .map(|event| event["message"]["params"]["request"]["url"].as_str().unwrap().to_owned())
            .collect()
    }

    fn entries(&self, kind: &str) -> Vec<Value> {
        self.call("/se/log", &json!({"type": kind})).as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser goes with its session; without one it goes with its driver.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
