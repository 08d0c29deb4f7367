//! Where the time of all cores goes, by Linux' own books.

use std::fmt;

#[cfg(target_os = "linux")]
use procfs::process::{Process, Stat, all_processes};
#[cfg(target_os = "linux")]
use procfs::{CpuInfo, Current, CurrentSI, KernelStats, KernelVersion, Meminfo};

use super::count;

/// The time of all cores since the machine was started, in seconds.
pub(crate) struct Cores {
    id: u32,
    service: f64,
    postgres: f64,
    bench: f64,
    busy: f64,
    idle: f64,
}

/// What each of something took of all cores, in microseconds.
pub(crate) struct Shares {
    service: f64,
    postgres: f64,
    bench: f64,
    others: f64,
    idle: f64,
}

impl Cores {
    /// Until now; `id` is the service's process.
    #[cfg(target_os = "linux")]
    pub(crate) fn now(id: u32) -> anyhow::Result<Self> {
        let service = Process::new(i32::try_from(id)?)?.stat()?;
        let all: Vec<_> = all_processes()?.filter_map(|process| process.ok()?.stat().ok()).collect();
        let kernel = KernelStats::current()?.total;
        let for_others = [kernel.irq, kernel.softirq, kernel.steal];
        Ok(Self {
            id,
            service: seconds(own(&service)),
            // A server process that has ended is in the books of the one that started it.
            postgres: seconds(all.iter().filter(|stat| stat.comm == "postgres").map(with_those_that_ended).sum()),
            bench: seconds(own(&Process::myself()?.stat()?)),
            busy: seconds(kernel.user + kernel.nice + kernel.system + for_others.into_iter().flatten().sum::<u64>()),
            idle: seconds(kernel.idle + kernel.iowait.unwrap_or(0)),
        })
    }

    /// Nobody else keeps such books.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn now(_: u32) -> anyhow::Result<Self> {
        anyhow::bail!("where the time of the cores goes is known on Linux alone")
    }

    /// What each of `number` took since then.
    pub(crate) fn each(&self, number: usize) -> anyhow::Result<Shares> {
        let now = Self::now(self.id)?;
        let each = |now: f64, then: f64| (now - then).max(0.0) / count(number) * 1e6;
        let (service, postgres) = (each(now.service, self.service), each(now.postgres, self.postgres));
        let bench = each(now.bench, self.bench);
        let others = (each(now.busy, self.busy) - service - postgres - bench).max(0.0);
        Ok(Shares { service, postgres, bench, others, idle: each(now.idle, self.idle) })
    }
}

#[cfg(target_os = "linux")]
fn own(stat: &Stat) -> u64 {
    stat.utime + stat.stime
}

#[cfg(target_os = "linux")]
fn with_those_that_ended(stat: &Stat) -> u64 {
    own(stat) + u64::try_from(stat.cutime + stat.cstime).unwrap_or(0)
}

#[cfg(target_os = "linux")]
#[expect(clippy::cast_precision_loss, reason = "exact for years")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / procfs::ticks_per_second() as f64
}

impl Shares {
    /// The head of a table; `of` names what its rows differ in.
    pub(crate) fn head(of: &str) -> String {
        format!(
            "| {of} | who | itself | Postgres | bench | others | idle |\n\
             |------------:|:----|-------:|---------:|------:|-------:|-----:|\n"
        )
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, postgres, bench, others, idle } = self;
        write!(f, "{service:.0} | {postgres:.0} | {bench:.0} | {others:.0} | {idle:.0}")
    }
}

/// What machine this is, for people.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_os = "linux")]
    if let (Ok(cpu), Ok(memory), Ok(kernel)) = (CpuInfo::current(), Meminfo::current(), KernelVersion::current()) {
        let model = cpu.model_name(0).unwrap_or("unknown");
        let gibibytes = memory.mem_total / 1024 / 1024 / 1024;
        return format!("{cores} cores ({model}), {gibibytes} GiB, Linux {}.{}", kernel.major, kernel.minor);
    }
    format!("{cores} cores")
}
