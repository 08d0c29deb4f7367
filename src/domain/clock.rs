//! Time and chance: the only file that asks the machine for either.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::RngExt;
use tokio::time::Instant;

/// What time it is.
///
/// The process's clock may be wrong by any amount: it judges signatures, and nothing else. What several processes must
/// agree on, and all that is stored, goes by Postgres' clock ([`PgInstant`]). A manual clock, for tests, stands in for both.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's.
    System,
    /// Moved by hand.
    Manual(Arc<ByHand>),
    /// The runtime's, which runs as fast as the simulation can.
    #[cfg(test)]
    Simulated {
        /// What time it was then.
        start: DateTime<Utc>,
        /// Then.
        since: tokio::time::Instant,
        /// By how much it was set forward since, in microseconds; less than nothing: back.
        set: Arc<AtomicI64>,
    },
}

/// A clock that is moved by hand, in microseconds.
#[derive(Debug)]
pub struct ByHand {
    /// What it shows, since the epoch.
    shows: AtomicI64,
    /// How much time has passed.
    passed: AtomicI64,
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Clock {
    /// A clock that stands still at `start` until it is moved.
    #[must_use]
    pub fn manual(start: DateTime<Utc>) -> Self {
        let shows = AtomicI64::new(start.timestamp_micros());
        Self::Manual(Arc::new(ByHand { shows, passed: AtomicI64::default() }))
    }

    /// Now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            Self::System => Utc::now(),
            Self::Manual(hand) => {
                DateTime::from_timestamp_micros(hand.shows.load(Ordering::SeqCst)).unwrap_or_default()
            }
            #[cfg(test)]
            Self::Simulated { start, since, set } => {
                *start + since.elapsed() + TimeDelta::microseconds(set.load(Ordering::SeqCst))
            }
        }
    }

    /// What to tell Postgres the time is: nothing, so that its own clock counts, unless moved by hand.
    #[must_use]
    pub fn for_postgres(&self) -> Option<PgInstant> {
        match self {
            Self::System => None,
            Self::Manual(_) => Some(PgInstant(self.now())),
            #[cfg(test)]
            Self::Simulated { .. } => Some(PgInstant(self.now())),
        }
    }

    /// How much time has passed since some moment, whatever the clock was set to in between.
    #[must_use]
    pub fn passed(&self) -> Duration {
        static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        match self {
            Self::System => START.elapsed(),
            Self::Manual(hand) => {
                Duration::from_micros(u64::try_from(hand.passed.load(Ordering::SeqCst)).unwrap_or_default())
            }
            #[cfg(test)]
            Self::Simulated { since, .. } => since.elapsed(),
        }
    }

    /// Sets a manual clock back, as a correction of the machine's does; no time passes.
    pub fn set_back(&self, by: Duration) {
        self.set(-micros(by));
    }

    /// Sets a manual clock forward; no time passes.
    pub fn set_forward(&self, by: Duration) {
        self.set(micros(by));
    }

    fn set(&self, by: i64) {
        match self {
            Self::System => {}
            Self::Manual(hand) => {
                hand.shows.fetch_add(by, Ordering::SeqCst);
            }
            #[cfg(test)]
            Self::Simulated { set, .. } => {
                set.fetch_add(by, Ordering::SeqCst);
            }
        }
    }

    /// Lets time pass by a manual clock; the machine's cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(hand) = self {
            hand.passed.fetch_add(micros(by), Ordering::SeqCst);
            self.set_forward(by);
        }
    }
}

/// An instant by Postgres' clock, which all processes share: the only kind that is told to Postgres as the time, or that
/// decides what they must agree on. It comes from Postgres, or from a clock that is moved by hand in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct PgInstant(DateTime<Utc>);

impl PgInstant {
    /// The instant, to be shown or kept.
    #[must_use]
    pub fn utc(self) -> DateTime<Utc> {
        self.0
    }

    /// How long ago a stored instant is; nothing for one that lies ahead.
    #[must_use]
    pub fn since(self, stored: DateTime<Utc>) -> Duration {
        (self.0 - stored).to_std().unwrap_or_default()
    }
}

impl Add<Duration> for PgInstant {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        let wait = chrono::Duration::from_std(wait).ok();
        Self(wait.and_then(|wait| self.0.checked_add_signed(wait)).unwrap_or(DateTime::<Utc>::MAX_UTC))
    }
}

impl Sub<Duration> for PgInstant {
    type Output = Self;

    fn sub(self, age: Duration) -> Self {
        let age = chrono::Duration::from_std(age).ok();
        Self(age.and_then(|age| self.0.checked_sub_signed(age)).unwrap_or(DateTime::UNIX_EPOCH))
    }
}

/// Postgres' clock, as the statements see it; nothing else of a [`Clock`] can be had from it.
#[derive(Debug, Clone)]
pub struct PgClock(Clock);

impl From<Clock> for PgClock {
    fn from(clock: Clock) -> Self {
        Self(clock)
    }
}

impl PgClock {
    /// See [`Clock::for_postgres`].
    #[must_use]
    pub fn for_postgres(&self) -> Option<PgInstant> {
        self.0.for_postgres()
    }

    /// How long ago that was; nothing if the clock is moved by hand, since it stands still meanwhile.
    #[must_use]
    pub fn elapsed(&self, since: Instant) -> Duration {
        if matches!(self.0, Clock::Manual(_)) { Duration::ZERO } else { since.elapsed() }
    }

    /// Postgres' clock, read at `at`, not before `since`.
    #[must_use]
    pub fn moment(&self, at: PgInstant, since: Instant) -> Moment {
        Moment { at, since: (!matches!(self.0, Clock::Manual(_))).then_some(since) }
    }
}

/// Postgres' clock as it was read once, carried on by how long that is ago for this process.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: PgInstant,
    /// A moment before; none where the clock is moved by hand.
    since: Option<Instant>,
}

impl Moment {
    /// When it was read.
    #[must_use]
    pub fn read_at(self) -> PgInstant {
        self.at
    }

    /// What Postgres' clock shows by now.
    #[must_use]
    pub fn now(self) -> PgInstant {
        self.at + self.since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

/// A step that is longer than this is noticed.
const SHORTEST_STEP: TimeDelta = TimeDelta::seconds(1);

/// How Postgres' clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockStep {
    /// Forward, by so much at most.
    Forward(Duration),
    /// Back, by so much at least.
    Back(Duration),
}

/// What Postgres' clock showed.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    /// By the process's own measure, a moment before: see [`Clock::passed`].
    pub asked_at: Duration,
    /// What it showed.
    pub shown: PgInstant,
    /// By the process's own measure, a moment after.
    pub answered_at: Duration,
}

/// How far Postgres' clock is ahead of what the process measures: between two bounds, since when exactly it was read is not
/// known, only when it was asked.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    least: TimeDelta,
    most: TimeDelta,
    asked_at: Duration,
}

impl From<ClockReading> for Ahead {
    fn from(reading: ClockReading) -> Self {
        let shown = reading.shown.0 - DateTime::UNIX_EPOCH;
        let ahead_of = |passed: Duration| shown - TimeDelta::from_std(passed).unwrap_or_default();
        Self { least: ahead_of(reading.answered_at), most: ahead_of(reading.asked_at), asked_at: reading.asked_at }
    }
}

/// Compares how far Postgres' clock moves with how much time passes for the process.
#[derive(Debug, Default)]
pub struct ClockWatch {
    known: Option<Ahead>,
}

impl ClockWatch {
    /// By how much the clock was set since what is remembered, if by more than a second. A slow answer hides a step of its
    /// length, until a quick one shows it.
    #[must_use]
    pub fn step_until(&self, reading: ClockReading) -> Option<ClockStep> {
        let (known, now) = (self.known?, Ahead::from(reading));
        if now.least - known.most > SHORTEST_STEP {
            return Some(ClockStep::Forward((now.most - known.least).to_std().unwrap_or_default()));
        }
        let back = known.least - now.most;
        (now.asked_at >= known.asked_at && back > SHORTEST_STEP)
            .then(|| ClockStep::Back(back.to_std().unwrap_or_default()))
    }

    /// Whether there is one to compare with.
    #[cfg(test)]
    pub(crate) fn has_reading(&self) -> bool {
        self.known.is_some()
    }

    /// Later ones are compared with this reading, and with those before that agree with it.
    pub fn remember(&mut self, reading: ClockReading) {
        let now = Ahead::from(reading);
        self.known = Some(match self.known {
            Some(known) if now.least <= known.most && known.least <= now.most => Ahead {
                least: now.least.max(known.least),
                most: now.most.min(known.most),
                asked_at: now.asked_at.max(known.asked_at),
            },
            // Of an earlier question that was answered late.
            Some(known) if now.asked_at < known.asked_at => known,
            _ => now,
        });
    }
}

/// Uniform chance in `[0, 1)`.
#[derive(Debug, Clone)]
pub enum Dice {
    /// The machine's.
    Random,
    /// Always this roll, for tests.
    Loaded(f64),
    /// The rolls that follow from a seed, the same every time, for tests; see [`Dice::seeded`].
    Seeded(Arc<AtomicU64>),
}

impl Dice {
    /// Dice whose rolls follow from `seed`; its clones share them.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(AtomicU64::new(seed)))
    }

    /// One roll in `[0, 1)`.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub fn roll(&self) -> f64 {
        match self {
            Self::Random => rand::rng().random(),
            Self::Loaded(roll) => *roll,
            Self::Seeded(state) => unit(split_mix(state.fetch_add(SPLIT_MIX_STEP, Ordering::SeqCst))),
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators": a counter with this step, well mixed.
const SPLIT_MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn split_mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(SPLIT_MIX_STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The upper 53 bits as a fraction: as fine as an `f64` gets below 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_dice_roll_the_same_every_time_and_evenly() {
        let rolls = |seed| {
            let dice = Dice::seeded(seed);
            (0..1_000).map(|_| dice.roll()).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        let low = rolls(7).into_iter().filter(|roll| (0.0..0.5).contains(roll)).count();
        assert!((450..550).contains(&low), "{low}");
        // The generator's published first output for the seed 0.
        assert_eq!(split_mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(DateTime::from_timestamp(0, 0).expect("in range"));
        let before = clock.now();
        clock.advance(Duration::from_mins(1));
        assert_eq!((clock.now() - before).num_seconds(), 60);
        assert_eq!(clock.for_postgres().map(PgInstant::utc), Some(clock.now()));
        assert_eq!(Clock::System.for_postgres(), None);
    }

    #[test]
    fn a_step_of_postgres_clock_is_told_from_time_that_passes_and_from_slow_answers() {
        let at = |seconds| PgInstant(DateTime::from_timestamp(seconds, 0).expect("in range"));
        let reading = |asked, shown, answered| ClockReading {
            asked_at: Duration::from_secs(asked),
            shown: at(shown),
            answered_at: Duration::from_secs(answered),
        };
        let step = |first: (u64, i64, u64), second: (u64, i64, u64)| {
            let mut watch = ClockWatch::default();
            watch.remember(reading(first.0, first.1, first.2));
            watch.step_until(reading(second.0, second.1, second.2))
        };
        let (forward, back) = (
            |by| Some(ClockStep::Forward(Duration::from_secs(by))),
            |by| Some(ClockStep::Back(Duration::from_secs(by))),
        );
        assert_eq!(step((0, 1_000, 0), (60, 1_060, 60)), None);
        assert_eq!(step((0, 1_000, 0), (60, 1_061, 60)), None, "a second is no step");
        assert_eq!(step((0, 1_000, 0), (60, 1_062, 60)), forward(2));
        assert_eq!(step((0, 1_000, 0), (60, 1_059, 60)), None);
        assert_eq!(step((0, 1_000, 0), (60, 1_058, 60)), back(2));
        assert_eq!(step((0, 1_000, 3), (60, 1_061, 60)), None, "it may have been read at once");
        assert_eq!(step((0, 1_000, 3), (60, 1_065, 60)), forward(8), "and may have been read late");
        assert_eq!(step((0, 1_000, 0), (60, 1_062, 63)), None);
        assert_eq!(step((10, 1_010, 11), (0, 1_000, 12)), None, "an earlier question that was answered late");
        assert_eq!(step((10, 1_010, 11), (0, 1_020, 12)), forward(21), "and that saw the step, of so much at most");
    }

    #[test]
    fn a_step_that_a_slow_answer_hides_is_shown_by_the_next_quick_one() {
        let at = |seconds| PgInstant(DateTime::from_timestamp(seconds, 0).expect("in range"));
        let reading = |asked, shown, answered| ClockReading {
            asked_at: Duration::from_secs(asked),
            shown: at(shown),
            answered_at: Duration::from_secs(answered),
        };
        let mut watch = ClockWatch::default();
        watch.remember(reading(0, 1_000, 0));
        let slow = reading(10, 1_013, 14);
        assert_eq!(watch.step_until(slow), None, "it may have been read three seconds later");
        watch.remember(slow);
        assert_eq!(watch.step_until(reading(20, 1_023, 20)), Some(ClockStep::Forward(Duration::from_secs(3))));
    }

    #[test]
    fn a_clock_that_is_set_by_hand_shows_another_time_and_no_time_has_passed() {
        let clock = Clock::manual(DateTime::UNIX_EPOCH);
        clock.advance(Duration::from_hours(2));
        clock.set_forward(Duration::from_secs(10));
        clock.set_back(Duration::from_hours(1));
        assert_eq!(clock.now(), DateTime::UNIX_EPOCH + TimeDelta::seconds(3_610));
        assert_eq!(clock.passed(), Duration::from_hours(2));
    }
}
