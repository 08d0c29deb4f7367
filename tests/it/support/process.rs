//! The real binary as a process of its own: started, asked, told to leave, frozen, killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use flexportal_sync::config::SETTINGS;
use flexportal_sync::domain::Clock;
use flexportal_sync::fake_flexportal::FakeFlexportal;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::app::{Answer, answer};
use super::shop::{GENERIC_SECRET, SHOPIFY_SECRET, Webhook};
use super::{DEADLINE, in_time};

/// `serve`, on a port of its own; killed when it is dropped.
pub struct Process {
    pub intake: Intake,
    child: tokio::process::Child,
    log: watch::Receiver<Vec<Value>>,
    _folder: tempfile::TempDir,
}

/// Where a process takes webhooks; can be asked also while the process is told to leave or killed.
#[derive(Debug, Clone)]
pub struct Intake {
    addr: String,
    client: reqwest::Client,
}

/// The secrets of the webhooks that tests send.
const SECRETS: [(&str, &str); 2] =
    [("SHOPIFY_WEBHOOK_SECRET", SHOPIFY_SECRET), ("GENERIC_WEBHOOK_SECRET", GENERIC_SECRET)];

impl Process {
    /// Starts one that takes webhooks and syncs, without a rate limit, and waits until it is ready.
    pub async fn start(url: &SecretString, fake: &FakeFlexportal) -> Self {
        Self::start_with(url, fake, &[]).await
    }

    /// With more variables.
    pub async fn start_with(url: &SecretString, fake: &FakeFlexportal, variables: &[(&str, &str)]) -> Self {
        Self::start_as(&[], url, fake, &[&SECRETS, variables].concat()).await
    }

    /// With arguments, and with no other variables than the database's, FlexPortal's and these.
    pub async fn start_as(
        arguments: &[&str],
        url: &SecretString,
        fake: &FakeFlexportal,
        variables: &[(&str, &str)],
    ) -> Self {
        let process = Self::launch(arguments, url, fake, variables).await;
        process.logs("ready").await;
        process
    }

    /// As [`Process::start`], but waits only until it listens: it may not find its database.
    pub async fn start_unready(url: &SecretString, fake: &FakeFlexportal) -> Self {
        Self::launch(&[], url, fake, &SECRETS).await
    }

    async fn launch(arguments: &[&str], url: &SecretString, fake: &FakeFlexportal, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_flexportal-sync"));
        for setting in SETTINGS {
            command.env_remove(setting.name);
        }
        command
            .arg("serve")
            .args(arguments)
            .current_dir(folder.path())
            .env("DATABASE_URL", url.expose_secret())
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .env("FLEXPORTAL_API_KEY", "fake-key")
            .env("FLEXPORTAL_TENANT_ID", "fake-tenant")
            .env("FLEXPORTAL_BASE_URL", fake.base_url().as_str())
            .env("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "0")
            .env("LOG_FORMAT", "json")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("it starts");
        let log = follow(child.stderr.take().and_then(|log| log.into_owned_fd().ok()).expect("piped"));
        let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build().expect("a client");
        let intake = Intake { addr: String::new(), client };
        let mut process = Self { intake, child, log, _folder: folder };
        process.logs("listening").await;
        let addr = process.log.borrow().iter().find_map(|line| Some(line.get("addr")?.as_str()?.to_owned()));
        process.intake.addr = addr.expect("it listens");
        process
    }

    /// Sends a webhook to the source of its kind.
    pub async fn deliver(&self, webhook: Webhook) -> Answer {
        self.intake.try_deliver(webhook).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.intake.get(path).await
    }

    /// Sends exactly these bytes.
    pub async fn post(&self, source: &str, headers: HeaderMap, body: impl Into<reqwest::Body>) -> Answer {
        let url = self.intake.url(&format!("/webhooks/{source}"));
        answer(self.intake.client.post(url).headers(headers).body(body)).await.expect("an answer")
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.borrow().clone()
    }

    /// Waits until its log has a line with this message.
    pub async fn logs(&self, message: &str) {
        let mut log = self.log.clone();
        let has_it = |log: &Vec<Value>| log.iter().any(|line| line["message"] == message);
        let found = in_time(message, log.wait_for(has_it)).await.is_ok();
        assert!(found, "it ended without a line `{message}`");
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        in_time("killed", self.child.kill()).await.expect("it is there");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// Stops in the middle of whatever it does, until it is thawed.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Waits until it has left.
    pub async fn leaves(mut self) -> ExitStatus {
        in_time("it leaves", self.child.wait()).await.expect("it ends")
    }

    fn signal(&self, name: &str) {
        let process = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &process]).status();
        assert!(sent.expect("kill runs").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.log.borrow().iter() {
                eprintln!("{line}");
            }
        }
    }
}

impl Intake {
    pub async fn connect(&self) -> Line {
        Line(TcpStream::connect(&self.addr).await.expect("a connection"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.client.get(self.url(path))).await.expect("an answer")
    }

    /// Sends a webhook; `None` if there was no answer.
    pub async fn try_deliver(&self, webhook: Webhook) -> Option<Answer> {
        let url = self.url(&format!("/webhooks/{}", webhook.source()));
        let headers = webhook.signed_at(Clock::System.now());
        answer(self.client.post(url).headers(headers).body(webhook.body)).await.ok()
    }

    /// Sends a webhook again and again, as shops do, until it is answered 200. Until then nothing but 503 will do.
    pub async fn deliver_until_stored(&self, webhook: Webhook) -> Answer {
        let sending = async {
            loop {
                let answer = self.try_deliver(webhook.clone()).await.expect("an answer");
                if answer.status == 200 {
                    return answer;
                }
                assert_turned_away(&answer);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time("a delivery stored", sending).await
    }
}

/// A connection, and what is sent on it byte by byte.
pub struct Line(TcpStream);

impl Line {
    /// Sends a webhook, and does not wait for the answer.
    pub async fn send(&mut self, webhook: Webhook) {
        let headers = webhook.signed_at(Clock::System.now());
        let headers = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().expect("text")));
        let (source, length) = (webhook.source(), webhook.body.len());
        let head = format!("POST /webhooks/{source} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n");
        let request = [(head + &headers.collect::<String>() + "\r\n").into_bytes(), webhook.body].concat();
        self.0.write_all(&request).await.expect("sent");
    }

    /// All that comes back until the other side hangs up; empty if that is all it does.
    pub async fn read_to_end(&mut self) -> String {
        let mut answer = vec![];
        // Cut off or closed: what counts is what came before.
        let _ = in_time("an answer and its end", self.0.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// 503, and when to come back.
pub fn assert_turned_away(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

/// Reads the log to its end, on a thread of its own, so that the service never waits for that.
fn follow(log: std::os::fd::OwnedFd) -> watch::Receiver<Vec<Value>> {
    let (lines, seen) = watch::channel(Vec::new());
    std::thread::spawn(move || {
        for line in BufReader::new(std::fs::File::from(log)).lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
            lines.send_modify(|lines| lines.push(line));
        }
    });
    seen
}
