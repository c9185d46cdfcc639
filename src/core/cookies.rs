//! The secret of DNS cookies in a cluster of version 1, and its rollover: later ones seal it (see [`crate::secrets`]).
//!
//! A rollover is begun by an operator and then goes by log time, each step on all nodes at the same index: the new secret is
//! accepted, and [`STAGED_MS`] later it is the one that cookies are made with while the old one is accepted, and
//! [`ACCEPTED_MS`] after that, when the last cookie of the old one has ended, the old one is gone. A node that was cut off
//! from the others for longer than a step makes or refuses cookies as it did before; its clients get fresh ones.

use crate::{apply::Refusal, state::State, time::LogTime};
use core::fmt;
use serde::{Deserialize, Serialize};

/// A new secret is accepted for so many milliseconds before it is used: by then every node that hears the cluster has it.
pub const STAGED_MS: u64 = 60_000;
/// An old secret is accepted for so many milliseconds after its last use: cookies live an hour (RFC 9018 §4.3), and clocks
/// may differ by five minutes.
pub const ACCEPTED_MS: u64 = 3_900_000;

/// 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieSecret(pub [u8; 16]);

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret(..)") // never in a log
    }
}

/// The cluster's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cookies {
    /// Cookies are made with it; none: each node has one of its own.
    pub active: Option<CookieSecret>,
    /// Accepted, and active next.
    pub staged: Option<CookieSecret>,
    /// Accepted, and gone next.
    pub previous: Option<CookieSecret>,
    /// When the last step was taken.
    pub since: LogTime,
}

impl Cookies {
    /// When the next step is due; none: no rollover goes on.
    pub fn due(&self) -> Option<LogTime> {
        match (self.staged, self.previous) {
            (Some(_), _) => Some(self.since.plus(STAGED_MS)),
            (None, Some(_)) => Some(self.since.plus(ACCEPTED_MS)),
            (None, None) => None,
        }
    }

    /// Takes the step that is due.
    pub(crate) fn advance(&mut self, now: LogTime) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        match self.staged.take() {
            Some(staged) => self.previous = self.active.replace(staged),
            None => self.previous = None,
        }
        self.since = now;
    }

    /// Begins a rollover. The first secret of a cluster is used at once.
    fn roll(&mut self, new: CookieSecret, now: LogTime) -> Result<(), Refusal> {
        if self.due().is_some() {
            return Err("a rollover of the cookie secret goes on already; wait for its end".into());
        }
        match self.active {
            None => self.active = Some(new),
            Some(_) => self.staged = Some(new),
        }
        self.since = now;
        Ok(())
    }
}

impl State {
    pub(crate) fn roll_cookies(&mut self, new: CookieSecret) -> Result<(), Refusal> {
        self.no_plain_secret()?;
        self.secrets.cookies.roll(new, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollover_stages_uses_and_retires() {
        let (mut cookies, at) = (Cookies::default(), LogTime(1_000_000));
        let secrets = [1, 2, 3].map(|n| CookieSecret([n; 16]));
        let held = |c: &Cookies| [c.active, c.staged, c.previous].map(|s| s.map_or(0, |s| s.0[0]));
        cookies.roll(secrets[0], at).unwrap();
        assert_eq!((held(&cookies), cookies.due()), ([1, 0, 0], None), "the first is used at once");
        cookies.roll(secrets[1], at).unwrap();
        assert_eq!(held(&cookies), [1, 2, 0], "accepted before it is used");
        assert!(cookies.roll(secrets[2], at).is_err(), "one at a time");
        cookies.advance(at.plus(STAGED_MS - 1));
        assert_eq!(held(&cookies), [1, 2, 0]);
        let used = at.plus(STAGED_MS);
        cookies.advance(used);
        assert_eq!(held(&cookies), [2, 0, 1], "the old one is accepted");
        assert!(cookies.roll(secrets[2], used).is_err(), "cookies of the old one are still about");
        cookies.advance(used.plus(ACCEPTED_MS - 1));
        assert_eq!(held(&cookies), [2, 0, 1]);
        cookies.advance(used.plus(ACCEPTED_MS));
        assert_eq!((held(&cookies), cookies.due()), ([2, 0, 0], None));
        assert!(!alloc::format!("{cookies:?}").contains('2'), "secrets are not shown");
    }
}
