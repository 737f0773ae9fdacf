//! What shall go wrong, as data and as text.
//!
//! ```text
//! PLAN  = ITEM *( ";" ITEM )
//! ITEM  = "seed=" NUMBER | ON "." FAULT [ "@" WHEN ]
//! ON    = "put" | "create" | "replace" | "get" | "range" | "head" | "list" | "delete"
//!       | "read" | "write" | "any"
//! FAULT = "fail:" KIND     fails, with nothing done (KIND as below)
//!       | "lose"           is done, but its answer is lost
//!       | "delay:" TIME    takes longer
//!       | "hang"           never answers (until released, which only a test in the process can do)
//!       | "truncate:" N    N bytes of the body remain
//!       | "corrupt"        one bit of the body is turned
//!       | "throttle:" RATE all operations of the rule share RATE bytes per second
//! WHEN  = N | N "-" M      of the operations that the rule is for, the Nth, or Nth to Mth
//!       | "p" ODDS         with this probability
//!       | "t" TIME "-" TIME while the store's age is within this
//! KIND  = "transient" | "unknown" | "denied" | "full" | "notfound" | "exists" | "conflict"
//!       | "nobucket" | "invalid"
//! TIME  = N "ms" | N "s"      RATE = N | N "k" | N "M" (powers of 1000)
//! ```

use std::{
    ops::{Range, RangeInclusive},
    str::FromStr,
    time::Duration,
};

use crate::{ErrorKind, Operation};

/// Faults to come. Its text form is described in the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Seed of all chance.
    pub seed: u64,
    /// Which operations are disturbed how. All that fit apply.
    pub rules: Vec<Rule>,
}

/// One kind of fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The operations it is for.
    pub on: On,
    /// What happens to them.
    pub fault: Fault,
    /// To which of them.
    pub when: When,
}

/// Operations a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// All.
    Any,
    /// Those that change nothing.
    Read,
    /// Those that do.
    Write,
    /// One kind.
    Only(Operation),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing is done.
    Fail(ErrorKind),
    /// It is done, but the answer is lost.
    Lose,
    /// It takes this much longer.
    Delay(Duration),
    /// It waits for [`super::Faulty::release`].
    Hang,
    /// This many bytes of the body remain.
    Truncate(u64),
    /// One bit of the body is turned.
    Corrupt,
    /// Bytes per second for all operations of the rule together.
    Throttle(u64),
}

/// Which of the operations are disturbed.
#[derive(Clone, Debug, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// By number, from 1.
    Count(RangeInclusive<u64>),
    /// By chance.
    Odds(f64),
    /// By the store's age.
    During(Range<Duration>),
}

/// A part of a plan's text that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?} is not part of a plan of faults; like: seed=7;put.fail:transient@3;read.delay:50ms@p0.1"
)]
pub struct PlanError {
    /// The part.
    pub part: String,
}

impl On {
    /// Whether `operation` is one of them.
    #[must_use]
    pub fn is(self, operation: Operation) -> bool {
        use Operation::{Get, GetRange, Head, List};
        match self {
            Self::Any => true,
            Self::Read => matches!(operation, Get | GetRange | Head | List),
            Self::Write => !matches!(operation, Get | GetRange | Head | List),
            Self::Only(only) => only == operation,
        }
    }
}

impl Rule {
    /// A rule for all operations of a kind.
    #[must_use]
    pub fn always(on: On, fault: Fault) -> Self {
        Self {
            on,
            fault,
            when: When::Always,
        }
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let wrong = || PlanError {
                part: part.to_owned(),
            };
            match part.strip_prefix("seed=") {
                Some(seed) => plan.seed = seed.parse().map_err(|_| wrong())?,
                None => plan.rules.push(rule(part).ok_or_else(wrong)?),
            }
        }
        Ok(plan)
    }
}

fn rule(text: &str) -> Option<Rule> {
    let (what, when) = text
        .split_once('@')
        .map_or((text, None), |(what, when)| (what, Some(when)));
    let (on, fault) = what.split_once('.')?;
    let when = when.map_or(Some(When::Always), self::when)?;
    Some(Rule {
        on: self::on(on)?,
        fault: self::fault(fault)?,
        when,
    })
}

fn on(text: &str) -> Option<On> {
    Some(match text {
        "any" => On::Any,
        "read" => On::Read,
        "write" => On::Write,
        "put" => On::Only(Operation::Put),
        "create" => On::Only(Operation::PutIfAbsent),
        "replace" => On::Only(Operation::PutIfMatch),
        "get" => On::Only(Operation::Get),
        "range" => On::Only(Operation::GetRange),
        "head" => On::Only(Operation::Head),
        "list" => On::Only(Operation::List),
        "delete" => On::Only(Operation::Delete),
        _ => return None,
    })
}

fn fault(text: &str) -> Option<Fault> {
    Some(
        match text
            .split_once(':')
            .map_or((text, ""), |(name, value)| (name, value))
        {
            ("fail", kind) => Fault::Fail(self::kind(kind)?),
            ("lose", "") => Fault::Lose,
            ("delay", time) => Fault::Delay(self::time(time)?),
            ("hang", "") => Fault::Hang,
            ("truncate", bytes) => Fault::Truncate(bytes.parse().ok()?),
            ("corrupt", "") => Fault::Corrupt,
            ("throttle", rate) => Fault::Throttle(self::rate(rate)?),
            _ => return None,
        },
    )
}

fn kind(text: &str) -> Option<ErrorKind> {
    Some(match text {
        "transient" => ErrorKind::Transient,
        "unknown" => ErrorKind::Unknown,
        "denied" => ErrorKind::Denied,
        "full" => ErrorKind::Full,
        "notfound" => ErrorKind::NotFound,
        "exists" => ErrorKind::AlreadyExists,
        "conflict" => ErrorKind::Conflict,
        "nobucket" => ErrorKind::NoBucket,
        "invalid" => ErrorKind::Invalid,
        _ => return None,
    })
}

fn when(text: &str) -> Option<When> {
    if let Some(odds) = text.strip_prefix('p') {
        return odds
            .parse()
            .ok()
            .filter(|odds| (0.0..=1.0).contains(odds))
            .map(When::Odds);
    }
    if let Some(times) = text.strip_prefix('t') {
        let (start, end) = times.split_once('-')?;
        return Some(When::During(time(start)?..time(end)?));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(When::Count(first.parse().ok()?..=last.parse().ok()?))
}

fn time(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => text
            .strip_suffix('s')?
            .parse()
            .ok()
            .map(Duration::from_secs),
    }
}

fn rate(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1_000),
        Some(number) => (number, 1_000_000),
        None => (text, 1),
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
        .filter(|rate| *rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let plan: Plan = "seed=7;put.fail:transient@3;any.delay:50ms@p0.1;range.corrupt@2-5;\
                          write.lose;read.hang@t2s-5s;put.throttle:10M;get.truncate:17"
            .parse()
            .unwrap();
        let rule = |on, fault, when| Rule { on, fault, when };
        assert_eq!(plan.seed, 7);
        let put = On::Only(Operation::Put);
        let second = Duration::from_secs(1);
        let expected = [
            rule(put, Fault::Fail(ErrorKind::Transient), When::Count(3..=3)),
            rule(
                On::Any,
                Fault::Delay(Duration::from_millis(50)),
                When::Odds(0.1),
            ),
            rule(
                On::Only(Operation::GetRange),
                Fault::Corrupt,
                When::Count(2..=5),
            ),
            rule(On::Write, Fault::Lose, When::Always),
            rule(On::Read, Fault::Hang, When::During(2 * second..5 * second)),
            rule(put, Fault::Throttle(10_000_000), When::Always),
            rule(On::Only(Operation::Get), Fault::Truncate(17), When::Always),
        ];
        assert_eq!(plan.rules, expected);
    }

    #[test]
    fn what_is_not_a_plan_is_named() {
        for bad in [
            "put",
            "put.fail",
            "put.fail:oops",
            "put.explode",
            "seed=x",
            "put.lose@",
            "put.lose@px",
            "put.lose@p2",
            "put.delay:5",
            "put.throttle:0",
            "nothing.lose",
            "put.lose@t1s",
            "put.hang:1",
        ] {
            let error = format!("put.lose;{bad}").parse::<Plan>().unwrap_err();
            assert_eq!(error.part, bad);
        }
    }
}
