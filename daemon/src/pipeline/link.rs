//! What the way to the store carries, from packs that were acknowledged.
//!
//! Packs travel beside each other and are acknowledged as a whole, so bytes per wall-clock time say
//! little about a few seconds. A pack that shares the link with n - 1 others gets an n-th of it: the
//! share of the link that it had is the integral of dt / n over its flight, and its bytes divided by
//! that are the rate of the whole link, however many packs flew and whenever they began (the virtual
//! time of fair queueing). Nothing is noted while nothing flies: an idle link says nothing.
//!
//! A flight *measures* the link if, for most of it, somebody waited for the link: a pack for a free
//! slot, or a pipeline that has encoded all for its last packs. Other flights only tell what the link
//! carries at least.

use std::time::{Duration, Instant};

use lifeboat_plan::Throughput;

/// A smaller pack says more about the latency of a request than about the link, unless it took
/// [`FLIGHT_MIN`].
const FLIGHT_BYTES_MIN: u64 = 4 << 20;

/// A shorter flight of a small pack is mostly latency.
const FLIGHT_MIN: Duration = Duration::from_millis(250);

/// Part of a flight for which somebody must have waited for the link.
const LIMITED_SHARE: f64 = 0.5;

/// A link is never taken to be faster: stores in memory answer at once.
const RATE_MAX: f64 = 1e11;

/// A measured rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkRate {
    /// Bytes per second that the link carries, all uploads together.
    pub bytes_per_second: f64,
    /// Standard deviation of it, relative.
    pub spread: f64,
    /// Time since it was measured last.
    pub age: Duration,
}

/// The meter. All uploads of the daemon go through one.
#[derive(Debug)]
pub(super) struct Link {
    flying: u32,
    waiting: u32,
    /// Up to when the integrals are complete.
    at: Instant,
    /// Integral of dt / flying, in seconds.
    share: f64,
    /// Time in which something flew and somebody waited for the link, in seconds.
    limited: f64,
    measured: Meter,
    seen: Meter,
}

/// A rate, and when it was noted last.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    rate: Throughput,
    noted: Option<Instant>,
}

/// A pack on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    begun: Instant,
    share: f64,
    limited: f64,
}

impl Link {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            flying: 0,
            waiting: 0,
            at: now,
            share: 0.0,
            limited: 0.0,
            measured: Meter {
                rate: Throughput::EMPTY,
                noted: None,
            },
            seen: Meter {
                rate: Throughput::EMPTY,
                noted: None,
            },
        }
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        if self.flying > 0 {
            self.share += passed / f64::from(self.flying);
            if self.waiting > 0 {
                self.limited += passed;
            }
        }
    }

    /// A pack begins its way.
    pub(super) fn begin(&mut self, now: Instant) -> Flight {
        self.advance(now);
        self.flying += 1;
        Flight {
            begun: now,
            share: self.share,
            limited: self.limited,
        }
    }

    /// It has ended; `bytes` were acknowledged, none if it failed.
    pub(super) fn end(&mut self, flight: Flight, bytes: u64, now: Instant) {
        self.advance(now);
        self.flying = self.flying.saturating_sub(1);
        let took = now.saturating_duration_since(flight.begun);
        if bytes == 0 || (bytes < FLIGHT_BYTES_MIN && took < FLIGHT_MIN) {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let least = bytes as f64 / RATE_MAX;
        let share = Duration::from_secs_f64((self.share - flight.share).max(least));
        let limited = self.limited - flight.limited;
        if limited >= LIMITED_SHARE * took.as_secs_f64() {
            self.measured.note(bytes, share, self.flying == 0, now);
        }
        self.seen.note(bytes, share, self.flying == 0, now);
    }

    /// Somebody begins to wait for the link, or does not any more.
    pub(super) fn wait(&mut self, waits: bool, now: Instant) {
        self.advance(now);
        self.waiting = if waits {
            self.waiting.saturating_add(1)
        } else {
            self.waiting.saturating_sub(1)
        };
    }

    /// What the link carried when it was the limit; `None`: it never was.
    pub(super) fn measured(&self, now: Instant) -> Option<LinkRate> {
        self.measured.rate(now)
    }

    /// What it carried, whether or not that was all that it can.
    pub(super) fn seen(&self, now: Instant) -> Option<LinkRate> {
        self.seen.rate(now)
    }
}

impl Meter {
    fn note(&mut self, bytes: u64, share: Duration, is_last: bool, now: Instant) {
        if let Some(before) = self.noted.replace(now) {
            self.rate.fade(now.saturating_duration_since(before));
        }
        self.rate.note(bytes, share, is_last);
    }

    fn rate(&self, now: Instant) -> Option<LinkRate> {
        Some(LinkRate {
            bytes_per_second: self.rate.rate()?,
            spread: self.rate.spread(),
            age: now.saturating_duration_since(self.noted?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: u64 = 16 << 20;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn is_near(rate: Option<LinkRate>, megabytes: f64) -> bool {
        rate.is_some_and(|rate| (rate.bytes_per_second / megabytes / 1e6 - 1.0).abs() < 0.05)
    }

    #[test]
    fn packs_that_share_the_link_tell_the_rate_of_all_of_it() {
        // Six packs at once over 100 MB/s: 1.007 s until all are there, one after the other in no
        // time.
        let start = Instant::now();
        let mut link = Link::new(start);
        let flights: Vec<Flight> = (0..6).map(|_| link.begin(start)).collect();
        link.wait(true, start);
        for flight in flights {
            link.end(flight, PACK, at(start, 1007));
        }
        assert!(is_near(link.measured(at(start, 1007)), 100.0), "{link:?}");
    }

    #[test]
    fn an_idle_link_and_one_that_nobody_waits_for_are_not_measured() {
        let start = Instant::now();
        let mut link = Link::new(start);
        assert_eq!(link.measured(start), None);
        assert_eq!(link.seen(start), None);
        // One pack every second, each of which takes a tenth of it.
        for second in 0..5 {
            let flight = link.begin(at(start, second * 1000));
            link.end(flight, PACK, at(start, second * 1000 + 100));
        }
        let now = at(start, 5000);
        assert_eq!(link.measured(now), None);
        assert!(is_near(link.seen(now), 168.0), "{link:?}");
        assert_eq!(link.seen(now).unwrap().age, Duration::from_millis(900));
    }

    #[test]
    fn what_failed_or_is_small_says_nothing() {
        let start = Instant::now();
        let mut link = Link::new(start);
        link.wait(true, start);
        let (failed, small) = (link.begin(start), link.begin(start));
        link.end(failed, 0, at(start, 900));
        let late = link.begin(at(start, 900));
        link.end(small, 0, at(start, 901));
        link.end(late, 4096, at(start, 930));
        assert_eq!(link.seen(at(start, 930)), None);
    }

    #[test]
    fn after_a_pause_the_link_is_learnt_anew() {
        let start = Instant::now();
        let mut link = Link::new(start);
        link.wait(true, start);
        let mut now = 0;
        for _ in 0..50 {
            let flight = link.begin(at(start, now));
            now += 16;
            link.end(flight, PACK, at(start, now));
        }
        assert!(is_near(link.measured(at(start, now)), 1049.0));
        now += 600_000;
        for _ in 0..2 {
            let flight = link.begin(at(start, now));
            now += 335;
            link.end(flight, PACK, at(start, now));
        }
        assert!(is_near(link.measured(at(start, now)), 50.0), "{link:?}");
    }
}
