//! A throwaway cluster of the machine's own Postgres programs, below a shell that outlives us just long enough.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use url::Url;

use super::{Durability, MAX_CONNECTIONS};

const SCRIPT: &str = include_str!("cluster.sh");

/// `initdb` takes a second; a machine busy with other tests may need far longer.
const START_DEADLINE: Duration = Duration::from_mins(1);
/// The server kills what does not listen after 5 s.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Lines of the log that are kept to say why a server did not start.
const KEPT_LINES: usize = 15;
/// The oldest the service works with.
const OLDEST_MAJOR: u32 = 13;

/// A running cluster. Dropping it closes the pipe, and the shell cleans up on its own.
pub(super) struct Cluster {
    folder: PathBuf,
    /// The shell stops the server when this closes.
    pipe: ChildStdin,
    state: watch::Receiver<State>,
}

/// What the shell's output has told so far.
enum State {
    Starting,
    Ready {
        folder: PathBuf,
    },
    /// The output has ended: server and folder are gone.
    Gone {
        last_lines: String,
    },
}

impl Cluster {
    /// Starts a server with the programs in that folder and waits until it answers.
    pub(super) async fn start(programs: &Path, durability: Durability) -> Result<Self, String> {
        let mut command = shell(SCRIPT, programs)?;
        command.args(["-c", MAX_CONNECTIONS]).args(durability.options());
        let mut child = command.spawn().map_err(|error| format!("/bin/sh: {error}"))?;
        let pipe = child.stdin.take().ok_or("the shell has no standard input")?;
        let (sender, mut state) = watch::channel(State::Starting);
        std::thread::Builder::new()
            .name("throwaway-postgres".into())
            .spawn(move || follow(child, &sender))
            .map_err(|error| format!("no thread: {error}"))?;

        let seconds = START_DEADLINE.as_secs();
        let changed = tokio::time::timeout(START_DEADLINE, state.wait_for(|state| !matches!(state, State::Starting)))
            .await
            .map_err(|_| format!("not ready after {seconds} s"))?;
        let folder = match changed.as_deref() {
            Ok(State::Ready { folder }) => folder.clone(),
            Ok(State::Gone { last_lines }) => return Err(format!("did not start\n{last_lines}")),
            Ok(State::Starting) | Err(_) => return Err("did not start".into()),
        };
        drop(changed);
        Ok(Self { folder, pipe, state })
    }

    /// The socket lies in the folder, which only the server's user (and root) can enter; so nobody is asked for
    /// a password.
    pub(super) fn url(&self) -> SecretString {
        let mut url = Url::parse("postgres://postgres@localhost:5432/postgres").expect("a constant");
        url.query_pairs_mut().append_pair("host", &self.folder.to_string_lossy()).append_pair("sslmode", "disable");
        String::from(url).into()
    }

    /// Waits until server and folder are gone.
    pub(super) async fn stop(self) -> Result<(), String> {
        let Self { folder, pipe, mut state } = self;
        drop(pipe);
        tokio::time::timeout(STOP_DEADLINE, state.wait_for(|state| matches!(state, State::Gone { .. })))
            .await
            .map(|_| ())
            .map_err(|_| format!("{} is still there after {} s", folder.display(), STOP_DEADLINE.as_secs()))
    }
}

/// A shell that runs `script` as a user whom the server's programs accept, with pipes to it and from it; the folder of
/// the programs is its first argument.
///
/// # Errors
/// There is no such user.
pub fn shell(script: &str, programs: &Path) -> Result<Command, String> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script, "throwaway-postgres"])
        .arg(programs)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C in the terminal must reach us, not the server: we may still want to write to it.
        .process_group(0);
    if let Some((user, group)) = unprivileged_user()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// Reads what the shell and the server say until both are gone; must go on to the end, for a full pipe would
/// stop the server.
fn follow(mut child: Child, state: &watch::Sender<State>) {
    let mut last_lines = VecDeque::with_capacity(KEPT_LINES);
    let mut folder = PathBuf::new();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while output.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if let Some(path) = line.strip_prefix("folder ") {
                folder = path.into();
            } else if line.ends_with("database system is ready to accept connections") {
                state.send_replace(State::Ready { folder: folder.clone() });
            }
            if last_lines.len() == KEPT_LINES {
                last_lines.pop_front();
            }
            last_lines.push_back(line);
        }
    }
    // Also reaps the shell, which would else stay in the process table as long as we live.
    let _exit = child.wait();
    state.send_replace(State::Gone { last_lines: Vec::from(last_lines).join("\n") });
}

/// Postgres refuses to run as root: the user and group to run it as, if we are root.
fn unprivileged_user() -> Result<Option<(u32, u32)>, String> {
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)))
        .map(Some)
        .ok_or_else(|| "Postgres does not run as root, and there is neither a user postgres nor nobody".into())
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Folders with programs new enough, the most wanted first: what is on the path, then the newest of each place
/// where packages put them.
#[must_use]
pub fn candidates() -> Vec<PathBuf> {
    // Not configuration: where programs lie is the machine's business.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    for (parent, prefix, rest) in PLACES {
        folders.extend(newest_first(Path::new(parent), prefix).into_iter().map(|folder| folder.join(rest)));
    }
    folders.retain(|folder| folder.is_absolute() && has_programs(folder));
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())));
    folders.retain(|folder| major_version(folder).is_some_and(|major| major >= OLDEST_MAJOR));
    folders
}

/// Parent folder, beginning of the name of each version's folder, way from there to the programs.
const PLACES: [(&str, &str, &str); 7] = [
    // Debian, Ubuntu
    ("/usr/lib/postgresql", "", "bin"),
    // Red Hat, Fedora
    ("/usr", "pgsql-", "bin"),
    // from source
    ("/usr/local", "pgsql", "bin"),
    // Homebrew on Apple's own processors, on Intel's, on Linux
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    // Postgres.app
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(prefix)?;
            Some((first_number(rest).unwrap_or(0), entry.path()))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

fn has_programs(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
}

/// From `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_version(folder: &Path) -> Option<u32> {
    let output = Command::new(folder.join("postgres")).arg("--version").stderr(Stdio::null()).output().ok()?;
    first_number(&String::from_utf8_lossy(&output.stdout))
}

fn first_number(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::{FoundPostgres, Keeper, connect, create_database, drop_database, fresh_database_name};
    use super::*;

    async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + STOP_DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: not within {} s", STOP_DEADLINE.as_secs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A cluster, or `None` on a machine without the programs.
    async fn cluster() -> Option<FoundPostgres> {
        let Some(programs) = candidates().into_iter().next() else {
            eprintln!("skipped: there are no Postgres programs here");
            return None;
        };
        Some(FoundPostgres::cluster(&programs, Durability::Fast).await.expect("the machine's Postgres starts"))
    }

    fn folder(found: &FoundPostgres) -> PathBuf {
        match &found.keeper {
            Keeper::Cluster(cluster) => cluster.folder.clone(),
            Keeper::Given | Keeper::Container(_) => panic!("not a cluster"),
        }
    }

    fn server_process(folder: &Path) -> String {
        let text = std::fs::read_to_string(folder.join("data/postmaster.pid")).expect("the server wrote its id");
        text.lines().next().expect("on the first line").to_owned()
    }

    fn is_alive(process: &str) -> bool {
        Command::new("kill").args(["-0", process]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    #[tokio::test]
    async fn a_cluster_answers_and_is_gone_after_stop() {
        let Some(found) = cluster().await else { return };
        assert!(found.describe().starts_with("Postgres 1") && found.describe().contains("throwaway cluster"));
        let (folder, url) = (folder(&found), found.url().clone());
        let process = server_process(&folder);
        let mut connection = connect(&url).await.expect("answers");
        let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await.expect("answers");
        let collation: String =
            sqlx::query_scalar("select datcollate || ' ' || pg_encoding_to_char(encoding) from pg_database limit 1")
                .fetch_one(&mut connection)
                .await
                .expect("answers");
        assert_eq!(one, 1);
        assert!(["C.UTF-8 UTF8", "C UTF8"].contains(&collation.as_str()), "{collation}");

        // The connection stays open: a client must not be able to hold the server up.
        found.stop().await.expect("stops");
        assert!(!folder.exists() && !is_alive(&process));
        assert!(connect(&url).await.is_err());
    }

    #[tokio::test]
    async fn a_cluster_is_gone_after_drop() {
        let Some(found) = cluster().await else { return };
        let folder = folder(&found);
        let process = server_process(&folder);
        drop(found);
        eventually("server and folder gone", || !folder.exists() && !is_alive(&process)).await;
    }

    #[tokio::test]
    async fn databases_come_and_go_even_under_a_client() {
        let Some(found) = cluster().await else { return };
        let name = fresh_database_name("flexportal_sync_demo");
        let url = create_database(found.url(), &name, None).await.expect("created");
        let mut connection = connect(&url).await.expect("answers");
        let current: String =
            sqlx::query_scalar("select current_database()").fetch_one(&mut connection).await.expect("answers");
        assert_eq!(current, name);
        drop_database(found.url(), &name).await.expect("dropped");
        assert!(connect(&url).await.is_err());
        drop_database(found.url(), &name).await.expect("dropping what is gone is no error");
        found.stop().await.expect("stops");
    }

    /// Says where its cluster is, then waits to be killed.
    #[tokio::test]
    #[ignore = "runs in a process of its own, started by the test below"]
    async fn owner_that_is_killed() {
        let Some(found) = cluster().await else { return };
        println!("\nowned {}", folder(&found).display());
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_cluster_is_gone_after_its_owner_was_killed() {
        if candidates().is_empty() {
            return;
        }
        let this_test = std::env::current_exe().expect("a test binary");
        let mut owner = Command::new(this_test)
            .args(["--ignored", "--exact", "--nocapture", "throwaway_postgres::cluster::tests::owner_that_is_killed"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(owner.stdout.take().expect("piped"));
        let folder = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("owned ").map(PathBuf::from))
            .expect("the owner has a cluster");
        let process = server_process(&folder);
        assert!(is_alive(&process));

        owner.kill().expect("SIGKILL");
        owner.wait().expect("killed");
        eventually("server and folder gone", || !folder.exists() && !is_alive(&process)).await;
    }

    #[tokio::test]
    async fn programs_that_do_not_work_say_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Cluster::start(folder.path(), Durability::Fast).await.err().expect("there is no initdb");
        assert!(error.contains("initdb"), "{error}");
    }

    #[test]
    fn the_newest_version_comes_first() {
        let parent = tempfile::tempdir().expect("a folder");
        for version in ["postgresql@9", "postgresql@17", "postgresql", "postgresql@15", "other"] {
            std::fs::create_dir(parent.path().join(version)).expect("made");
        }
        let names: Vec<_> = newest_first(parent.path(), "postgresql")
            .into_iter()
            .filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned()))
            .collect();
        assert_eq!(names, ["postgresql@17", "postgresql@15", "postgresql@9", "postgresql"]);
        assert_eq!(first_number("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
    }
}
