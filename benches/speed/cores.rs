//! Where the time of all cores goes, by Linux' own books.

use std::fmt;

use anyhow::Context;
use procfs::process::{Process, Stat, all_processes};
use procfs::{CurrentSI, KernelStats};

use super::count;

/// The time of all cores since the machine was started, in ticks.
pub(crate) struct Cores {
    id: u32,
    service: u64,
    postgres: u64,
    bench: u64,
    busy: u64,
    idle: u64,
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
    pub(crate) fn now(id: u32) -> anyhow::Result<Self> {
        let service = Process::new(i32::try_from(id)?).and_then(|process| process.stat());
        let all: Vec<_> = all_processes()?.filter_map(|process| process.ok()?.stat().ok()).collect();
        let kernel = KernelStats::current().context("the system does not tell the time of its cores")?.total;
        let idle = kernel.idle + kernel.iowait.unwrap_or(0);
        let busy = [kernel.irq, kernel.softirq, kernel.steal].into_iter().flatten().sum::<u64>();
        Ok(Self {
            id,
            service: own(&service?),
            // A server process that has ended is in the books of the one that started it.
            postgres: all.iter().filter(|stat| stat.comm == "postgres").map(with_those_that_ended).sum(),
            bench: own(&Process::myself()?.stat()?),
            busy: kernel.user + kernel.nice + kernel.system + busy,
            idle,
        })
    }

    /// What each of `number` took since then.
    pub(crate) fn each(&self, number: usize) -> anyhow::Result<Shares> {
        let (now, then) = (Self::now(self.id)?, self);
        let each = |now: u64, then: u64| {
            let ticks = u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX);
            f64::from(ticks) / count(usize::try_from(procfs::ticks_per_second()).unwrap_or(100)) / count(number) * 1e6
        };
        let (service, postgres) = (each(now.service, then.service), each(now.postgres, then.postgres));
        let bench = each(now.bench, then.bench);
        let others = (each(now.busy, then.busy) - service - postgres - bench).max(0.0);
        Ok(Shares { service, postgres, bench, others, idle: each(now.idle, then.idle) })
    }
}

fn own(stat: &Stat) -> u64 {
    stat.utime + stat.stime
}

fn with_those_that_ended(stat: &Stat) -> u64 {
    own(stat) + u64::try_from(stat.cutime + stat.cstime).unwrap_or(0)
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
