//! The binary: exit codes, help that teaches, errors that say how to mend them.

use assert_cmd::Command;
use flexportal_sync::config::SETTINGS;
use secrecy::ExposeSecret;

use crate::support::{App, database};

/// The program without any setting of ours, in an empty folder, so that no `.env` is found.
pub fn program(folder: &tempfile::TempDir) -> Command {
    let mut command = Command::cargo_bin("flexportal-sync").expect("the binary");
    command.current_dir(folder.path());
    for setting in SETTINGS {
        command.env_remove(setting.name);
    }
    command.env_remove("FLEXPORTAL_SYNC_CONFIG");
    command
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs it to its end, without blocking the test's runtime.
pub async fn run(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Output { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn help_teaches_every_command() {
    let folder = folder();
    let mut help = program(&folder);
    help.arg("--help");
    let help = run(help).await;
    assert_eq!(help.code, Some(0));
    for command in [
        "serve",
        "migrate",
        "check",
        "demo",
        "send",
        "status",
        "failures",
        "events",
        "customers",
        "preview",
        "links",
        "erase",
        "export",
        "fake-flexportal",
    ] {
        assert!(help.out.contains(command), "{command}");
        let mut of_command = program(&folder);
        of_command.args([command, "--help"]);
        assert_eq!(run(of_command).await.code, Some(0), "{command}");
    }
    assert!(help.out.contains("Exit codes: 0 done, 1 failed, 2 wrong usage or configuration"));
}

#[tokio::test]
async fn wrong_usage_and_wrong_configuration_exit_with_2() {
    let folder = folder();
    let mut usage = program(&folder);
    usage.arg("swerve");
    assert_eq!(run(usage).await.code, Some(2));

    let mut nothing_set = program(&folder);
    nothing_set.arg("serve");
    let nothing_set = run(nothing_set).await;
    assert_eq!(nothing_set.code, Some(2));
    for named in ["DATABASE_URL", "FLEXPORTAL_API_KEY", "FLEXPORTAL_TENANT_ID", "SHOPIFY_WEBHOOK_SECRET"] {
        assert!(nothing_set.err.contains(named), "all faults at once: {}", nothing_set.err);
    }
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let folder = folder();
    let mut command = program(&folder);
    command
        .arg("serve")
        .env("SHOPIFY_WEBHOOK_SECRET", "marked-secret")
        .env("FLEXPORTAL_API_KEY", "marked-secret\n")
        .env("DATABASE_URL", "not-a-url-marked-secret")
        .env("FLEXPORTAL_TIMEOUT", "never");
    let output = run(command).await;
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("FLEXPORTAL_TIMEOUT"));
    assert!(!format!("{}{}", output.out, output.err).contains("marked-secret"), "{}", output.err);
}

#[tokio::test]
async fn migrate_applies_what_is_missing_and_check_reports_line_by_line() {
    let app = App::start().await;
    let db = database().await;
    // As a new installation finds it.
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(&db.pool).await.expect("emptied");
    let folder = folder();
    let with_settings = |argument: &str| {
        let mut command = program(&folder);
        command
            .arg(argument)
            .env("DATABASE_URL", db.url.expose_secret())
            .env("FLEXPORTAL_API_KEY", "fake-key")
            .env("FLEXPORTAL_TENANT_ID", "fake-tenant")
            .env("FLEXPORTAL_BASE_URL", app.fake.base_url().as_str())
            .env("SHOPIFY_WEBHOOK_SECRET", "secret");
        command
    };
    let before = run(with_settings("check")).await;
    assert_eq!(before.code, Some(1));
    assert!(before.out.contains("bad   migrations"), "{}", before.out);

    let migrated = run(with_settings("migrate")).await;
    assert_eq!((migrated.code, migrated.out.contains("migrations applied")), (Some(0), true), "{}", migrated.err);
    let again = run(with_settings("migrate")).await;
    assert_eq!((again.code, again.out.as_str()), (Some(0), "the database is up to date\n"));

    let good = run(with_settings("check")).await;
    assert_eq!(good.code, Some(0), "{}", good.out);
    assert_eq!(good.out.lines().filter(|line| line.starts_with("ok ")).count(), 4, "{}", good.out);

    // The tests' own server is fast and forgets; one that is given may not be.
    let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&db.pool).await.expect("a setting");
    assert_eq!(good.out.contains("its `fsync` is off"), fsync == "off", "{}", good.out);

    let mut wrong_key = with_settings("check");
    wrong_key.env("FLEXPORTAL_API_KEY", "wrong");
    let wrong_key = run(wrong_key).await;
    assert_eq!(wrong_key.code, Some(1));
    assert!(wrong_key.out.contains("FLEXPORTAL_API_KEY"), "the mend is named: {}", wrong_key.out);

    sqlx::query("insert into targets (name, held_until, hold_reason) values ('default', now(), 'refused')")
        .execute(&db.pool)
        .await
        .expect("paused");
    let paused = run(with_settings("check")).await;
    assert_eq!(paused.code, Some(1), "{}", paused.out);
    assert!(paused.out.contains("bad   FlexPortal `default`: paused"), "{}", paused.out);
}

#[tokio::test]
async fn send_signs_for_every_kind_of_shop() {
    let app = App::start().await;
    let folder = folder();
    // The service under test stands still in time, and generic deliveries have to be fresh.
    let kinds =
        [("shopify", crate::support::shop::SHOPIFY_SECRET), ("woocommerce", crate::support::shop::WOOCOMMERCE_SECRET)];
    for (kind, secret) in kinds {
        let url = format!("http://{}/webhooks/{kind}", app.addr);
        let mut send = program(&folder);
        send.args(["send", "--kind", kind, "--secret", secret, "--url", &url]);
        let answered = run(send).await;
        assert_eq!(answered.code, Some(0), "{}", answered.err);
        assert!(answered.out.starts_with("200 ") && answered.out.contains("accepted"), "{}", answered.out);

        let mut wrong = program(&folder);
        wrong.args(["send", "--kind", kind, "--secret", "wrong", "--url", &url]);
        let wrong = run(wrong).await;
        assert_eq!(wrong.code, Some(1));
        assert!(wrong.out.starts_with("401 ") && wrong.err.contains("--secret"), "{}", wrong.err);

        let mut as_json = program(&folder);
        as_json.args(["send", "--kind", kind, "--secret", secret, "--url", &url, "--delivery-id", kind, "--json"]);
        let as_json: serde_json::Value = serde_json::from_str(&run(as_json).await.out).expect("JSON");
        assert_eq!((&as_json["status"], &as_json["body"]["status"]), (&200.into(), &"accepted".into()));
        let mut without = program(&folder);
        without.args(["send", "--kind", kind, "--secret", " ", "--url", &url]);
        assert_eq!(run(without).await.code, Some(2), "an empty secret is a slip of the pen");

        let deleted = if kind == "shopify" { "customers/delete" } else { "customer.deleted" };
        let mut of_topic = program(&folder);
        of_topic.args(["send", "--kind", kind, "--secret", secret, "--url", &url, "--topic", deleted]);
        let of_topic = run(of_topic).await;
        assert!(of_topic.out.contains("accepted"), "{} {}", of_topic.out, of_topic.err);
    }
}

#[tokio::test]
async fn erase_tells_what_it_erased_and_when_there_was_nothing() {
    let app = App::start().await;
    app.sync(crate::support::shop::shopify(1, 0, &serde_json::json!({}))).await;
    let folder = folder();
    let erase = |arguments: &[&str]| {
        let mut command = program(&folder);
        command.args(["erase", "--source", "shopify"]).args(arguments).env("DATABASE_URL", app.db.url.expose_secret());
        command
    };
    let dry = run(erase(&["--email", "customer1@example.com", "--dry-run", "--json"])).await;
    let dry: serde_json::Value = serde_json::from_str(&dry.out).expect("JSON");
    let would = serde_json::json!({"events": 1, "closed": 0, "requests": 2, "links": 1});
    assert_eq!((&dry[0]["dryRun"], &dry[0]["erased"]), (&true.into(), &would));
    let by_email = run(erase(&["--email", "customer1@example.com"])).await;
    assert_eq!(by_email.code, Some(0), "{}", by_email.err);
    assert!(by_email.out.contains("customer 7120000001: 1 event and 2 requests erased"), "{}", by_email.out);
    let nobody = run(erase(&["--customer", "nobody"])).await;
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.err.contains("--customer"), "the mend is named: {}", nobody.err);
    assert_eq!(run(erase(&[])).await.code, Some(2));
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_database_that_is_not_there_are_explained() {
    let app = App::start().await;
    let folder = folder();
    let serve = |database_url: &str, addr: &str| {
        let mut command = program(&folder);
        command
            .arg("serve")
            .env("DATABASE_URL", database_url)
            .env("LISTEN_ADDR", addr)
            .env("FLEXPORTAL_API_KEY", "k")
            .env("FLEXPORTAL_TENANT_ID", "t")
            .env("SHOPIFY_WEBHOOK_SECRET", "secret");
        command
    };
    let taken = run(serve(app.db.url.expose_secret(), &app.addr.to_string())).await;
    assert_eq!(taken.code, Some(1));
    assert!(taken.err.contains("LISTEN_ADDR"), "{}", taken.err);

    let mut missing = url::Url::parse(app.db.url.expose_secret()).expect("a url");
    missing.set_path("there_is_no_such_database");
    let missing = run(serve(missing.as_str(), "127.0.0.1:0")).await;
    assert_eq!(missing.code, Some(1), "{}", missing.err);
    assert!(missing.err.contains("there_is_no_such_database"), "{}", missing.err);
}

#[test]
fn the_readme_documents_every_setting_with_its_default() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("a README");
    for setting in SETTINGS {
        // A setting has a row of its own, or stands in the row of its pair.
        let row = readme.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{}`", setting.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not in the README", setting.name));
        if let Some(default) = setting.default {
            assert!(row.contains(&format!("`{default}`")), "{}: the README's default differs: {row}", setting.name);
        }
    }
}

/// As the tests themselves find their Postgres.
fn demo(folder: &tempfile::TempDir) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flexportal-sync"));
    command.arg("demo").current_dir(folder.path());
    command
}

#[tokio::test]
async fn the_demo_ends_as_it_should_and_shows_what_failed() {
    let folder = folder();
    let mut demo = demo(&folder);
    let output = tokio::task::spawn_blocking(move || demo.output().expect("it runs")).await.expect("no panic");
    let out = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{out}");
    assert!(out.contains("deliveries ended as they should"), "{out}");
    assert!(out.contains("VALIDATION_ERROR"), "the failed syncs are shown: {out}");
}

#[tokio::test]
async fn a_demo_ended_by_ctrl_c_leaves_nothing_behind() {
    use std::io::{BufRead, BufReader};
    let folder = folder();
    let mut demo = demo(&folder);
    demo.arg("--keep").stdout(std::process::Stdio::piped());
    let (code, address) = tokio::task::spawn_blocking(move || {
        let mut child = demo.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("psql '")?.1.split_once('\'')?.0.to_owned()));
        // To the group as a terminal would, but not to this test.
        let signalled = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(signalled.expect("kill runs").success());
        let rest: Vec<_> = lines.collect();
        (child.wait().expect("it ends").code(), address.unwrap_or_else(|| panic!("no address: {rest:?}")))
    })
    .await
    .expect("no panic");
    assert_eq!(code, Some(0), "all had ended as it should before");
    sqlx::PgPool::connect(&address).await.expect_err("the database is gone");
    let socket = url::Url::parse(&address)
        .expect("a url")
        .query_pairs()
        .find(|(key, _)| key == "host")
        .map(|(_, folder)| folder.into_owned());
    if let Some(folder) = socket {
        assert!(!std::path::Path::new(&folder).exists(), "{folder} is still there");
    }
}
