//! `send`: a webhook as the shop would send it, to try a connection.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::Args;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::show;
use crate::config::ShopKind;
use crate::domain::Clock;
use crate::shops::sign::{sign, usual_topic};

/// `send`
#[derive(Debug, Args)]
pub(super) struct Send {
    /// Which shop to sign as
    #[arg(long, value_enum)]
    kind: ShopKind,
    /// The webhook secret that the service has for this source
    #[arg(long, env = "FLEXPORTAL_SYNC_SEND_SECRET", hide_env_values = true, value_parser = secret)]
    secret: SecretString,
    /// Where to post it: the service's address and `/webhooks/<source>`
    #[arg(long, value_name = "URL")]
    url: Url,
    /// Body to send instead of the sample; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Topic; default: customers/update for Shopify, customer.updated for WooCommerce; generic bodies carry theirs
    #[arg(long)]
    topic: Option<String>,
    /// Delivery id; the same one twice is answered `duplicate`. Default: a new one
    #[arg(long, value_name = "ID")]
    delivery_id: Option<String>,
    /// The answer as JSON, for scripts
    #[arg(long)]
    json: bool,
}

fn secret(text: &str) -> Result<SecretString, String> {
    if text.trim().is_empty() {
        return Err("give the secret that the service has for this source".to_owned());
    }
    Ok(text.into())
}

/// The service's answer, for scripts.
#[derive(Serialize)]
struct Answer<'a> {
    status: u16,
    body: Value,
    #[serde(rename = "deliveryId")]
    delivery_id: &'a str,
}

impl Send {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let body = self.body()?;
        let topic = self.topic.as_deref().unwrap_or_else(|| usual_topic(self.kind));
        let delivery_id = self.delivery_id.clone().unwrap_or_else(|| format!("send-{}", uuid::Uuid::new_v4().simple()));
        let headers = sign(self.kind, &self.secret, topic, &delivery_id, &body, Clock::System.now())
            .map_err(anyhow::Error::msg)?;
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("no HTTP client")?;
        let mut request = client.post(self.url.clone()).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request
            .send()
            .await
            .with_context(|| format!("nothing answers at {}: is the service running?", self.url))?;
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        if self.json {
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            show::json(&Answer { status: status.as_u16(), body, delivery_id: &delivery_id })?;
        } else {
            println!("{} {}", status.as_u16(), text.trim_end());
        }
        Ok(match status.as_u16() {
            200 => ExitCode::SUCCESS,
            401 => bail!("the signature was refused: compare --secret and --kind with the service's configuration"),
            404 => bail!("there is no such source: the path is /webhooks/<name>, and its secret must be configured"),
            413 => bail!("the body is too large for the service: see its MAX_BODY_BYTES"),
            503 => bail!("the service cannot store it now: see its log, and /readyz"),
            _ => bail!("it was not taken: the answer above says what is wrong with body or topic"),
        })
    }

    /// A whole customer, or of a deleted one the id alone, as the topic wants it.
    fn sample(&self) -> anyhow::Result<Value> {
        let mut body = sample(self.kind, Clock::System.now())?;
        if matches!(self.topic.as_deref(), Some("customers/delete" | "customer.deleted")) {
            match self.kind {
                ShopKind::Shopify | ShopKind::WooCommerce => body = serde_json::json!({"id": body["id"]}),
                ShopKind::Generic => body["type"] = "customer.deleted".into(),
            }
        }
        Ok(body)
    }

    fn body(&self) -> anyhow::Result<Vec<u8>> {
        match &self.file {
            None => Ok(serde_json::to_vec(&self.sample()?)?),
            Some(path) if path.as_os_str() == "-" => {
                let mut body = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut body).context("cannot read standard input")?;
                Ok(body)
            }
            Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// A customer as each shop sends it, changed at `now`.
pub(super) fn sample(kind: ShopKind, now: DateTime<Utc>) -> anyhow::Result<Value> {
    let (text, time) = match kind {
        ShopKind::Shopify => (include_str!("samples/shopify.json"), ("updated_at", now.to_rfc3339())),
        ShopKind::WooCommerce => {
            let utc_without_zone = now.format("%Y-%m-%dT%H:%M:%S").to_string();
            (include_str!("samples/woocommerce.json"), ("date_modified_gmt", utc_without_zone))
        }
        ShopKind::Generic => (include_str!("samples/generic.json"), ("timestamp", now.to_rfc3339())),
    };
    let mut body: Value = serde_json::from_str(text).context("a bundled sample is broken")?;
    body[time.0] = time.1.into();
    Ok(body)
}
