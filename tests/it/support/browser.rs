//! A real browser: Chromium, driven over `WebDriver`. Nothing of it is left behind, whatever becomes of the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
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
}

/// The driver in a shell of its own, which ends when all that it started is gone, files too; and it sees to that when our
/// end of its standard input closes, for whatever reason.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

const DRIVER: &str = include_str!("browser.sh");

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
            // Past the capture of tests that pass: a skipped one must not look like them.
            let _ = writeln!(
                std::io::stderr(),
                "\n!!! SKIPPED a test of the console: no chromium with chromedriver here\n"
            );
            return None;
        }
        let starting = tokio::task::spawn_blocking(start);
        let (driver, folder, port) = in_time("chromedriver", starting).await.expect("no panic");
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={folder}/profile"),
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
        Some(Self { client, _driver: driver })
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
        let entries = self.client.issue_cmd(Own("se/log", json!({"type": "browser"}))).await.expect("a log");
        let entries = entries.as_array().cloned().unwrap_or_default();
        let texts = entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"]));
        texts.filter(|text| text.contains("SEVERE") || text.contains("Content Security Policy")).collect()
    }

    /// One command of the `DevTools` protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.client.issue_cmd(Own("goog/cdp/execute", body)).await.expect("carried out");
    }

    pub async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a picture")
    }
}

/// The driver, the folder for profiles, and the port. Chromedriver takes a free port of IPv4 and then wants the same of
/// IPv6; where another program was faster it ends, and is started again.
fn start() -> (Driver, String, u16) {
    let mut said = Vec::new();
    (0..5).find_map(|_| try_start(&mut said)).unwrap_or_else(|| panic!("chromedriver did not start: {said:#?}"))
}

fn try_start(said: &mut Vec<String>) -> Option<(Driver, String, u16)> {
    let mut shell = Command::new("/bin/sh");
    // Ctrl-C in the terminal reaches us, not the shell: it ends by its standard input.
    shell.args(["-c", DRIVER, "browser", "chromedriver"]).process_group(0);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let driver = Driver(child);
    let mut folder = String::new();
    for line in lines {
        if let Some(path) = line.strip_prefix("folder ") {
            path.clone_into(&mut folder);
        } else if let Some((_, port)) = line.split_once("successfully on port ") {
            return Some((driver, folder, port.trim_end_matches('.').parse().ok()?));
        }
        said.push(line);
    }
    None
}

/// A command of chromedriver's own, within the session.
#[derive(Debug)]
struct Own(&'static str, Value);

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _request: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}
