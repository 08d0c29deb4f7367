//! A real browser: Chromium, driven over `WebDriver`. Nothing of it is left behind, whatever becomes of the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::http::Method;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use url::Url;

use super::{DEADLINE, in_time};

/// What a window is like.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub is_dark: bool,
}

impl Window {
    pub const DESK: Self = Self { width: 1280, height: 900, is_dark: false };
    pub const PHONE: Self = Self { width: 360, height: 740, is_dark: true };
}

/// One window.
pub struct Browser {
    pub client: Client,
    _driver: Driver,
    _profile: tempfile::TempDir,
}

/// The driver in a shell of its own: when our end of its standard input closes, for whatever reason, the shell ends the
/// driver and all that it started.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

const DRIVER: &str = r#"
    chromedriver --port=0 2>/dev/null &
    cat >/dev/null
    kill -KILL $! 2>/dev/null
    pkill -KILL -f -- "--user-data-dir=$1" 2>/dev/null
    exit 0
"#;

impl Browser {
    /// Opens a window. Where the machine has no Chromium the test says so and passes, unless `CONSOLE_TESTS` is
    /// `required`.
    pub async fn open(window: Window) -> Option<Self> {
        let has = |program: &str| {
            let found = Command::new("which").arg(program).stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        if !has("chromium") || !has("chromedriver") {
            let required = std::env::var_os("CONSOLE_TESTS").is_some_and(|value| value == "required");
            assert!(!required, "chromium and chromedriver are needed: apt-get install chromium chromium-driver");
            eprintln!("skipped: there is no chromium with chromedriver on this machine");
            return None;
        }
        let profile = tempfile::tempdir().expect("a folder");
        let folder = profile.path().to_str().expect("a path").to_owned();
        let (driver, port) = in_time("chromedriver", async {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || start(&folder)).await.expect("no panic")
        })
        .await;
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            format!("--user-data-dir={folder}"),
            format!("--window-size={},{}", window.width, window.height),
        ];
        arguments.extend(window.is_dark.then(|| "--blink-settings=preferredColorScheme=0".to_owned()));
        let metrics = json!({"width": window.width, "height": window.height, "pixelRatio": 1.0, "touch": false});
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": "/usr/bin/chromium",
                "args": arguments,
                "mobileEmulation": {"deviceMetrics": metrics},
            },
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is an object") };
        let connecting = async {
            let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
            builder.capabilities(capabilities);
            builder.connect(&format!("http://127.0.0.1:{port}")).await
        };
        let client = in_time("a window", connecting).await.expect("a session");
        Some(Self { client, _driver: driver, _profile: profile })
    }

    /// Closes the window; the driver ends with it.
    pub async fn close(self) {
        self.client.close().await.expect("closed");
    }

    pub async fn goto(&self, url: &str) {
        self.client.goto(url).await.expect("gone to");
    }

    /// The text of a part of the page, by its `data-testid`, once it is there.
    pub async fn text(&self, id: &str) -> String {
        self.find(id).await.text().await.expect("a text")
    }

    pub async fn find(&self, id: &str) -> fantoccini::elements::Element {
        self.find_css(&format!("[data-testid=\"{id}\"]")).await
    }

    pub async fn find_css(&self, css: &str) -> fantoccini::elements::Element {
        let wait = self.client.wait().at_most(DEADLINE).every(Duration::from_millis(20));
        wait.for_element(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    pub async fn click(&self, id: &str) {
        self.click_css(&format!("[data-testid=\"{id}\"]")).await;
    }

    /// Clicks what a selector finds, as soon as it can be clicked.
    pub async fn click_css(&self, css: &str) {
        let clicking = async {
            loop {
                if self.find_css(css).await.click().await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time(css, clicking).await;
    }

    pub async fn write(&self, id: &str, text: &str) {
        self.find(id).await.send_keys(text).await.expect("written");
    }

    /// Waits until a part of the page says something.
    pub async fn says(&self, id: &str, words: &str) {
        let css = serde_json::to_string(&format!("[data-testid=\"{id}\"]")).expect("JSON");
        let words = serde_json::to_string(words).expect("JSON");
        self.holds(&format!("[...document.querySelectorAll({css})].some((part) => part.innerText.includes({words}))"))
            .await;
    }

    /// Waits until an expression is true.
    pub async fn holds(&self, expression: &str) {
        let holding = async {
            while self.value(expression).await != Value::Bool(true) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time(expression, holding).await;
    }

    /// What an expression is.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return ({expression});"), vec![]).await.expect("a value")
    }

    /// What the browser has complained of: errors, and what the page's policy forbade.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.client.issue_cmd(ReadLog).await.expect("a log");
        let entries = entries.as_array().cloned().unwrap_or_default();
        let texts = entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"]));
        texts.filter(|text| text.contains("SEVERE") || text.contains("Content Security Policy")).collect()
    }

    pub async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a picture")
    }
}

fn start(folder: &str) -> (Driver, u16) {
    let mut shell = Command::new("sh");
    shell.args(["-c", DRIVER, "sh", folder]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = shell.spawn().expect("a shell");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let port =
        lines.filter_map(|line| Some(line.split_once("successfully on port ")?.1.trim_end_matches('.').to_owned()));
    let driver = Driver(child);
    let port = port.take(1).find_map(|port| port.parse().ok()).expect("chromedriver says its port");
    (driver, port)
}

/// Chromedriver's own command for the browser's log.
#[derive(Debug)]
struct ReadLog;

impl WebDriverCompatibleCommand for ReadLog {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _request: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}
