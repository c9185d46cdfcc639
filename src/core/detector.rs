//! From observations of one stream to a verdict: green, yellow or red, with the kind of trouble.
//!
//! - **Refused** is the network's own word and needs no patience: each refusal asks for the next probe at once, and
//!   `fall` of them in a row are red.
//! - **Unhealthy** (a wrong answer) is red after `fall` in a row at the usual interval.
//! - **Silence** is the absence of a word and needs patience: red only when `fall` probes in a row went unanswered *and*
//!   they span the patience of the preset (counted from the first of them: a pause that begins right after an answer
//!   is not charged for the interval before it) *and* the last answer is older than the stream's own rhythm explains.
//!   The rhythm is accrual in integers: mean plus seven mean deviations of the time between answers, which is what
//!   φ = 8 of Hayashibara's φ-accrual detector (2004) is for a normal distribution (5.6 σ, and σ ≈ 1.25 mean
//!   deviations).
//!
//! Going back to green takes `rise` answers in a row.

use crate::{
    evidence::{Colour, Kind, Verdict},
    time::Mono,
};

/// What one probe or heartbeat saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The expected answer.
    Answer,
    /// Connection refused or reset.
    Refused,
    /// Nothing within the timeout.
    Silence,
    /// An answer, but a wrong one.
    Wrong,
}

/// When a stream is red.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Answers in a row until green; at least 1.
    pub rise: u8,
    /// Failures in a row until red; at least 1.
    pub fall: u8,
    /// Silence shorter than this is never red, in milliseconds: pauses of this length are tolerated.
    pub patience_ms: u64,
}

/// Wait between the re-probes that confirm a refusal, in milliseconds.
pub const CONFIRM_MS: u64 = 15;

/// Mean deviations beyond the mean after which silence is no longer the stream's own rhythm.
const DEVIATIONS: u64 = 7;

/// The state of one stream.
#[derive(Debug, Clone)]
pub struct Detector {
    thresholds: Thresholds,
    colour: Colour,
    kind: Option<Kind>,
    since: Mono,
    /// Answers (positive) or failures (negative) in a row.
    answers: u8,
    failures: u8,
    last_answer: Option<Mono>,
    /// When the first of the failures in a row was seen.
    failing_since: Mono,
    /// Time between answers and its mean deviation, in 1/8 milliseconds, smoothed by 1/8 (as RFC 6298 does for RTT).
    mean: u64,
    deviation: u64,
}

impl Detector {
    /// A stream that nothing is known of: yellow.
    pub fn new(thresholds: Thresholds, now: Mono) -> Detector {
        Detector {
            thresholds,
            colour: Colour::Yellow,
            kind: None,
            since: now,
            answers: 0,
            failures: 0,
            last_answer: None,
            failing_since: now,
            mean: 0,
            deviation: 0,
        }
    }

    /// Takes one observation in; true when the verdict changed.
    pub fn observe(&mut self, seen: Observation, now: Mono) -> bool {
        let before = (self.colour, self.kind);
        match seen {
            Observation::Answer => self.answered(now),
            Observation::Refused => self.failed(Kind::Refused, now),
            Observation::Wrong => self.failed(Kind::Unhealthy, now),
            Observation::Silence => self.failed(Kind::Silent, now),
        }
        self.changed(before, now)
    }

    fn changed(&mut self, before: (Colour, Option<Kind>), now: Mono) -> bool {
        if before.0 != self.colour {
            self.since = now;
        }
        before != (self.colour, self.kind)
    }

    fn answered(&mut self, now: Mono) {
        // a gap of an outage is not the rhythm, and is no first idea of it either
        if let Some(last) = self.last_answer.filter(|_| self.failures == 0) {
            let gap = now.since(last) * 8;
            if self.mean == 0 {
                (self.mean, self.deviation) = (gap, gap / 2);
            } else {
                let off = gap.abs_diff(self.mean);
                self.deviation = self.deviation - self.deviation / 8 + off / 8;
                self.mean = self.mean - self.mean / 8 + gap / 8;
            }
        }
        self.last_answer = Some(now);
        self.failures = 0;
        self.answers = self.answers.saturating_add(1);
        let first = self.colour == Colour::Yellow && self.kind.is_none();
        if first || self.colour == Colour::Yellow || self.answers >= self.thresholds.rise {
            (self.colour, self.kind) = (Colour::Green, None);
        }
    }

    fn failed(&mut self, kind: Kind, now: Mono) {
        self.answers = 0;
        if self.failures == 0 {
            self.failing_since = now;
        }
        self.failures = self.failures.saturating_add(1);
        let enough = self.failures >= self.thresholds.fall;
        let red = enough && (kind != Kind::Silent || self.silent_too_long(now));
        if self.colour == Colour::Red {
            self.kind = Some(kind);
        } else {
            (self.colour, self.kind) = (if red { Colour::Red } else { Colour::Yellow }, Some(kind));
        }
    }

    fn silent_too_long(&self, now: Mono) -> bool {
        let rhythm = (self.mean + DEVIATIONS * self.deviation) / 8;
        let quiet = now.since(self.last_answer.unwrap_or(self.failing_since));
        now.since(self.failing_since) >= self.thresholds.patience_ms && quiet >= rhythm
    }

    /// The verdict at `now`.
    pub fn verdict(&self, now: Mono) -> Verdict {
        Verdict { colour: self.colour, kind: self.kind, age_ms: now.since(self.since) }
    }

    /// Whether the next probe should go out at once: a refusal that is not confirmed yet.
    pub fn confirming(&self) -> bool {
        self.colour == Colour::Yellow && self.kind == Some(Kind::Refused)
    }
}

/// Why an observer should not be believed (Lifeguard, Dadgar et al. 2018): it may be sick itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fitness {
    /// Peers that it cannot hear, of so many.
    pub peers_missing: usize,
    /// All peers.
    pub peers: usize,
    /// How late its own timers fire, in milliseconds.
    pub timer_lag_ms: u64,
    /// Its slowest recent fsync, in milliseconds.
    pub fsync_ms: u64,
}

impl Fitness {
    /// Timers later than this make an observer abstain.
    pub const TIMER_LAG_MS: u64 = 250;
    /// An fsync slower than this makes an observer abstain.
    pub const FSYNC_MS: u64 = 500;

    /// The reason to abstain, if there is one.
    pub fn abstains(&self) -> Option<alloc::string::String> {
        use alloc::format;
        if self.peers_missing * 2 > self.peers {
            return Some(format!("misses {} of {} peers", self.peers_missing, self.peers));
        }
        if self.timer_lag_ms > Self::TIMER_LAG_MS {
            return Some(format!("its timers are {} ms late", self.timer_lag_ms));
        }
        (self.fsync_ms > Self::FSYNC_MS).then(|| format!("its fsync took {} ms", self.fsync_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Thresholds = Thresholds { rise: 2, fall: 3, patience_ms: 2_000 };

    fn steady() -> Detector {
        let mut d = Detector::new(T, Mono(0));
        for i in 1..=20 {
            d.observe(Observation::Answer, Mono(i * 500));
        }
        assert_eq!(d.verdict(Mono(10_000)).colour, Colour::Green);
        d
    }

    #[test]
    fn a_refusal_is_confirmed_at_once() {
        let mut d = steady();
        d.observe(Observation::Refused, Mono(10_010));
        assert!(d.confirming());
        d.observe(Observation::Refused, Mono(10_025));
        assert!(d.confirming());
        d.observe(Observation::Refused, Mono(10_040));
        let v = d.verdict(Mono(10_041));
        assert_eq!((v.colour, v.kind, v.age_ms), (Colour::Red, Some(Kind::Refused), 1));
        assert!(!d.confirming());
    }

    #[test]
    fn silence_needs_patience() {
        let mut d = steady();
        for ms in [10_500, 11_000, 11_500, 12_000, 12_499] {
            d.observe(Observation::Silence, Mono(ms));
            assert_eq!(d.verdict(Mono(ms)).colour, Colour::Yellow, "at {ms}");
        }
        d.observe(Observation::Silence, Mono(12_500));
        assert_eq!(d.verdict(Mono(12_500)).colour, Colour::Red);
    }

    #[test]
    fn a_pause_shorter_than_the_patience_is_never_red_wherever_it_begins() {
        // probes every 500 ms with a timeout of 500 ms, seen when they end; the answer takes 5 ms
        for begins in 10_000..10_500 {
            let (mut d, ends) = (steady(), begins + 1_999);
            for sent in (10_000..13_500).step_by(500) {
                let arrives = if (begins..ends).contains(&(sent + 2)) { ends } else { sent + 2 };
                let answered = arrives + 3 < sent + 500;
                let (seen, at) = if answered {
                    (Observation::Answer, arrives + 3)
                } else {
                    (Observation::Silence, sent + 500)
                };
                d.observe(seen, Mono(at));
                assert_ne!(d.verdict(Mono(at)).colour, Colour::Red, "pause from {begins}, probe of {sent}");
            }
        }
    }

    #[test]
    fn a_stream_of_irregular_rhythm_is_given_more_time() {
        let mut d = Detector::new(T, Mono(0));
        let mut at = 0;
        for i in 0..200 {
            at += if i % 2 == 0 { 100 } else { 1_900 };
            d.observe(Observation::Answer, Mono(at));
        }
        for ms in [500, 1_000, 2_500, 4_000] {
            d.observe(Observation::Silence, Mono(at + ms));
        }
        assert_eq!(d.verdict(Mono(at)).colour, Colour::Yellow, "mean 1 s, deviation 0.9 s: 7.3 s are needed");
        d.observe(Observation::Silence, Mono(at + 8_000));
        assert_eq!(d.verdict(Mono(at)).colour, Colour::Red);
    }

    #[test]
    fn an_outage_after_the_very_first_answer_is_not_taken_for_the_rhythm() {
        let mut d = Detector::new(T, Mono(0));
        d.observe(Observation::Answer, Mono(500));
        for ms in (1_000..25_000).step_by(500) {
            d.observe(Observation::Silence, Mono(ms));
        }
        for ms in [25_000, 25_500, 26_000] {
            d.observe(Observation::Answer, Mono(ms));
        }
        for ms in [26_500, 27_000, 27_500, 28_000, 28_500] {
            d.observe(Observation::Silence, Mono(ms));
        }
        assert_eq!(d.verdict(Mono(28_500)).colour, Colour::Red, "2 s of silence, at a rhythm of 500 ms");
    }

    #[test]
    fn red_takes_rise_answers_to_turn_green() {
        let mut d = steady();
        for i in 0..3 {
            d.observe(Observation::Wrong, Mono(10_500 + i * 500));
        }
        assert_eq!(d.verdict(Mono(12_000)).kind, Some(Kind::Unhealthy));
        d.observe(Observation::Answer, Mono(12_000));
        assert_eq!(d.verdict(Mono(12_000)).colour, Colour::Red);
        d.observe(Observation::Answer, Mono(12_500));
        assert_eq!(d.verdict(Mono(12_500)).colour, Colour::Green);
    }

    #[test]
    fn one_lost_probe_is_yellow_and_forgotten() {
        let mut d = steady();
        assert!(d.observe(Observation::Silence, Mono(10_500)));
        assert_eq!(d.verdict(Mono(10_500)).colour, Colour::Yellow);
        d.observe(Observation::Answer, Mono(11_000));
        assert_eq!(d.verdict(Mono(11_000)).colour, Colour::Green);
    }

    #[test]
    fn a_sick_observer_abstains() {
        assert_eq!(Fitness { peers_missing: 1, peers: 2, ..Fitness::default() }.abstains(), None);
        assert!(Fitness { peers_missing: 2, peers: 2, ..Fitness::default() }.abstains().is_some());
        assert!(Fitness { timer_lag_ms: 251, ..Fitness::default() }.abstains().is_some());
        assert!(Fitness { fsync_ms: 501, ..Fitness::default() }.abstains().is_some());
    }
}
