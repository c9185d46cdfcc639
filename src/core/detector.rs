//! From observations of one stream to a verdict: green, yellow or red, with the kind of trouble.
//!
//! - **Refused** is the network's own word and needs no patience: a refusal asks for the next probes at once, none of which
//!   waits for the one before it, and `fall` refusals in a row are red.
//! - **Unhealthy** (a wrong answer) is red after `fall` in a row at the usual interval. Silences before either do not count
//!   with it: a lossy path and one refusal are no outage.
//! - **Silence** is the absence of a word and needs patience: red only when `fall` probes in a row went unanswered *and*
//!   they span the patience of the preset (counted from when the first of them was sent: a pause that begins right after
//!   an answer is not charged for the interval before it) *and* the last answer is older than the stream's own rhythm explains.
//!   The rhythm is accrual in integers: mean plus seven mean deviations of the time between answers, which is what
//!   φ = 8 of Hayashibara's φ-accrual detector (2004) is for a normal distribution (5.6 σ, and σ ≈ 1.25 mean
//!   deviations).
//!
//! Going back to green takes `rise` answers in a row.

use crate::{
    evidence::{Colour, Kind, Verdict},
    mutant::{self, Mutant},
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
    /// Silence shorter than this is never red, in milliseconds, counted from the first probe that was not answered.
    pub patience_ms: u64,
}

/// How soon silence is believed. Refusals and wrong answers are believed as soon under each of them.
///
/// The numbers come from simulated hours of ordinary trouble (`tests/sim/ordinary.rs`), which also says what each preset
/// costs in time: calm is not bought with patience that nobody sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Pauses of a program that move nothing, in milliseconds.
    pub pauses_ms: u64,
    /// [`Thresholds::patience_ms`]: the pause, and the way of an answer after it.
    pub patience_ms: u32,
    /// From one probe to the next, in milliseconds.
    pub interval_ms: u32,
    /// A probe that is not answered in this time was silence, in milliseconds.
    pub timeout_ms: u32,
    /// Failures in a row until red.
    pub fall: u8,
}

impl Preset {
    /// Tolerates pauses of 0.3 s. A path of more than 46 ms is given more than its timeout (see [`Pace`]).
    pub const FAST: Preset =
        Preset { name: "fast", pauses_ms: 300, patience_ms: 800, interval_ms: 100, timeout_ms: 280, fall: 3 };
    /// Tolerates pauses of 2 s.
    pub const BALANCED: Preset = Preset {
        name: "balanced",
        pauses_ms: 2_000,
        patience_ms: 2_400,
        interval_ms: 500,
        timeout_ms: 900,
        fall: 3,
    };
    /// Tolerates pauses of 5 s.
    pub const PATIENT: Preset = Preset {
        name: "patient",
        pauses_ms: 5_000,
        patience_ms: 5_800,
        interval_ms: 500,
        timeout_ms: 1_000,
        fall: 3,
    };
    /// All of them.
    pub const ALL: [Preset; 3] = [Preset::FAST, Preset::BALANCED, Preset::PATIENT];
}

/// How long a probe is waited for, and when it is tried again beside the tries under way.
///
/// A lost SYN is sent again after a second (RFC 6298 §2), by when the probe is over: it would hang on two packets. So a
/// probe that is not answered soon opens another connection, as a client does that has several addresses to try (RFC
/// 8305 §5). The first answer on any of them is its answer, also on one that the probe before it has opened: a path that
/// lets one of many packets through is not silent. Once the first try is overdue, others follow at half the distance: at
/// the whole of it, bursts that lose half of all packets took a site from `fast` once in ten thousand hours. A far path is
/// given more time than its check says: three of its own answer times, so that a third try can still be answered, but no
/// more than [`Pace::LIFE_MS`]; so is one that has not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The probe was silence after this, in milliseconds.
    pub within_ms: u64,
    /// From the first try to the second, in milliseconds.
    pub again_ms: u64,
    /// From each of the others to the next, in milliseconds.
    pub more_ms: u64,
    /// A try is given up after this, in milliseconds.
    pub life_ms: u64,
}

impl Pace {
    /// Life of a try, unless the check's timeout is longer, in milliseconds.
    pub const LIFE_MS: u64 = 1_000;
    /// The second try comes after such a part of a probe's time.
    const AGAIN: u64 = 8;

    /// For a timeout, on a path whose answers take so long (none: unknown), both in milliseconds.
    pub fn new(timeout_ms: u64, answer_ms: Option<u64>) -> Pace {
        let far = answer_ms.map_or(Pace::LIFE_MS, |ms| (3 * ms).min(Pace::LIFE_MS));
        let within_ms = timeout_ms.max(far);
        let again_ms = (within_ms / Pace::AGAIN).clamp(20, 250).max(answer_ms.unwrap_or(0) * 5 / 4);
        let more_ms = (within_ms / (2 * Pace::AGAIN)).clamp(20, 125);
        Pace { within_ms, again_ms, more_ms, life_ms: within_ms.max(Pace::LIFE_MS) }
    }

    /// One try, with the timeout of the check: for a path that loses nothing.
    pub fn once(timeout_ms: u64) -> Pace {
        let never = 2 * timeout_ms;
        Pace { within_ms: timeout_ms, again_ms: never, more_ms: never, life_ms: timeout_ms }
    }
}

/// From one of the probes that confirm a refusal to the next, in milliseconds.
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
    /// Of the failures, the last ones in a row that were no silence.
    said: u8,
    last_answer: Option<Mono>,
    /// A probe could not be made since the last one that was.
    unseen: bool,
    /// When the first of the failures in a row was sent.
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
            said: 0,
            last_answer: None,
            unseen: false,
            failing_since: now,
            mean: 0,
            deviation: 0,
        }
    }

    /// Takes in what a probe saw that was sent at `sent` and ended at `now`; true when the verdict changed.
    pub fn observe(&mut self, seen: Observation, sent: Mono, now: Mono) -> bool {
        let before = (self.colour, self.kind);
        match seen {
            Observation::Answer => self.answered(now),
            Observation::Refused => self.failed(Kind::Refused, sent, now),
            Observation::Wrong => self.failed(Kind::Unhealthy, sent, now),
            Observation::Silence => self.failed(Kind::Silent, sent, now),
        }
        self.changed(before, now)
    }

    /// A probe could not be made: what failed in a row before it does not count on, since nobody knows what was between.
    /// True when the verdict changed.
    pub fn blind(&mut self, now: Mono) -> bool {
        let before = (self.colour, self.kind);
        (self.failures, self.said, self.unseen) = (0, 0, true);
        if self.colour == Colour::Yellow && self.last_answer.is_some() {
            self.kind = None;
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
        // a gap of an outage, or in which nothing was looked at, is not the rhythm, and is no first idea of it either
        let unseen = core::mem::take(&mut self.unseen);
        if let Some(last) = self.last_answer.filter(|_| self.failures == 0 && !unseen) {
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
        (self.failures, self.said) = (0, 0);
        self.answers = self.answers.saturating_add(1);
        let first = self.colour == Colour::Yellow && self.kind.is_none();
        if first || self.colour == Colour::Yellow || self.answers >= self.thresholds.rise {
            (self.colour, self.kind) = (Colour::Green, None);
        }
    }

    fn failed(&mut self, kind: Kind, sent: Mono, now: Mono) {
        self.answers = 0;
        if self.failures == 0 {
            self.failing_since = sent;
        }
        self.failures = self.failures.saturating_add(1);
        self.said = if kind == Kind::Silent { 0 } else { self.said.saturating_add(1) };
        let fall = self.thresholds.fall;
        let red = self.said >= fall
            || self.failures >= fall && self.silent_too_long(now)
            || mutant::on(Mutant::Impatience);
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

    /// Refusals that are missing until a refusal is confirmed, to be asked for at once; 0: there is none to confirm.
    pub fn unconfirmed(&self) -> u8 {
        let confirming = self.colour == Colour::Yellow && self.kind == Some(Kind::Refused);
        if confirming { self.missing() } else { 0 }
    }

    /// Refusals in a row that make this stream red, at least 1: what to ask for when there are news of the one who is asked.
    pub fn missing(&self) -> u8 {
        let missing = self.thresholds.fall.saturating_sub(self.said).max(1);
        if self.colour == Colour::Red { 1 } else { missing }
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
    /// It had no descriptor or memory for a probe lately.
    pub no_room: bool,
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
        if self.no_room {
            return Some("it has no descriptor or memory left for a probe".into());
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
            d.observe(Observation::Answer, Mono(i * 500), Mono(i * 500));
        }
        assert_eq!(d.verdict(Mono(10_000)).colour, Colour::Green);
        d
    }

    #[test]
    fn silences_before_a_refusal_do_not_confirm_it() {
        let mut d = steady();
        for at in [10_100, 10_200] {
            d.observe(Observation::Silence, Mono(at), Mono(at + 80));
        }
        assert_eq!(d.missing(), 3);
        d.observe(Observation::Refused, Mono(10_300), Mono(10_301));
        assert_eq!((d.verdict(Mono(10_301)).colour, d.unconfirmed(), d.missing()), (Colour::Yellow, 2, 2));
        // one who is refused and not answered in turn is not forgotten
        let mut d = steady();
        let seen =
            [Observation::Refused, Observation::Silence].into_iter().cycle().zip((10_100..).step_by(100));
        let red = seen.take(60).find(|&(seen, at)| {
            d.observe(seen, Mono(at), Mono(at + 80));
            d.verdict(Mono(at + 80)).colour == Colour::Red
        });
        assert!(red.is_some_and(|(_, at)| at - 10_100 >= T.patience_ms), "{red:?}");
        assert_eq!(d.missing(), 1);
    }

    #[test]
    fn a_refusal_is_confirmed_at_once() {
        let mut d = steady();
        assert_eq!((d.unconfirmed(), d.missing()), (0, 3));
        d.observe(Observation::Refused, Mono(10_010), Mono(10_010));
        assert_eq!(d.unconfirmed(), 2);
        d.observe(Observation::Refused, Mono(10_025), Mono(10_025));
        assert_eq!(d.unconfirmed(), 1);
        d.observe(Observation::Refused, Mono(10_040), Mono(10_040));
        let v = d.verdict(Mono(10_041));
        assert_eq!((v.colour, v.kind, v.age_ms), (Colour::Red, Some(Kind::Refused), 1));
        assert_eq!(d.unconfirmed(), 0);
    }

    #[test]
    fn silence_needs_patience() {
        let mut d = steady();
        for ms in [10_500, 11_000, 11_500, 12_000, 12_499] {
            d.observe(Observation::Silence, Mono(ms), Mono(ms));
            assert_eq!(d.verdict(Mono(ms)).colour, Colour::Yellow, "at {ms}");
        }
        d.observe(Observation::Silence, Mono(12_500), Mono(12_500));
        assert_eq!(d.verdict(Mono(12_500)).colour, Colour::Red);
    }

    /// Probes as a preset sends them, never two at once; whether one is red after a pause, and when silence is.
    fn pause(preset: Preset, begins: u64, lasts: u64) -> Option<u64> {
        let Preset { patience_ms, interval_ms, timeout_ms, fall, .. } = preset;
        let mut d = Detector::new(Thresholds { rise: 2, fall, patience_ms: patience_ms.into() }, Mono(0));
        let (mut sent, ends) = (0, begins.saturating_add(lasts));
        while sent < begins + lasts.min(60_000) + 5_000 {
            // the answer takes 5 ms, and as long as the pause
            let arrives = if (begins..ends).contains(&(sent + 2)) { ends } else { sent + 2 };
            let answer = arrives.saturating_add(3);
            let late = sent + u64::from(timeout_ms);
            let (seen, at) =
                if answer < late { (Observation::Answer, answer) } else { (Observation::Silence, late) };
            d.observe(seen, Mono(sent), Mono(at));
            if d.verdict(Mono(at)).colour == Colour::Red {
                return Some(at - begins);
            }
            sent = at.max(sent + u64::from(interval_ms));
        }
        None
    }

    #[test]
    fn no_preset_minds_the_pauses_that_it_tolerates_and_each_minds_silence_soon_after() {
        for preset in Preset::ALL {
            let within = u64::from(preset.interval_ms + preset.timeout_ms) + u64::from(preset.patience_ms);
            for begins in 20_000..20_500 {
                assert_eq!(pause(preset, begins, preset.pauses_ms), None, "{} from {begins}", preset.name);
                let red = pause(preset, begins, u64::MAX);
                assert!(red.is_some_and(|ms| ms <= within), "{} from {begins}: {red:?}", preset.name);
            }
        }
    }

    #[test]
    fn a_far_path_is_given_three_answer_times_and_no_more_than_a_second() {
        let pace = |timeout, answer| {
            let Pace { within_ms, again_ms, more_ms, .. } = Pace::new(timeout, answer);
            (within_ms, again_ms, more_ms)
        };
        assert_eq!(pace(280, Some(3)), (280, 35, 20));
        assert_eq!(pace(280, Some(200)), (600, 250, 37), "a try has time for its answer before the next");
        assert_eq!(pace(280, Some(600)), (1_000, 750, 62));
        assert_eq!(pace(280, None), (1_000, 125, 62), "nothing is known of the path");
        assert_eq!(pace(5_000, Some(2)), (5_000, 250, 125));
        assert_eq!(pace(10, Some(0)), (10, 20, 20), "one try");
    }

    #[test]
    fn a_stream_of_irregular_rhythm_is_given_more_time() {
        let mut d = Detector::new(T, Mono(0));
        let mut at = 0;
        for i in 0..200 {
            at += if i % 2 == 0 { 100 } else { 1_900 };
            d.observe(Observation::Answer, Mono(at), Mono(at));
        }
        for ms in [500, 1_000, 2_500, 4_000] {
            d.observe(Observation::Silence, Mono(at + ms), Mono(at + ms));
        }
        assert_eq!(d.verdict(Mono(at)).colour, Colour::Yellow, "mean 1 s, deviation 0.9 s: 7.3 s are needed");
        d.observe(Observation::Silence, Mono(at + 8_000), Mono(at + 8_000));
        assert_eq!(d.verdict(Mono(at)).colour, Colour::Red);
    }

    #[test]
    fn an_outage_after_the_very_first_answer_is_not_taken_for_the_rhythm() {
        let mut d = Detector::new(T, Mono(0));
        d.observe(Observation::Answer, Mono(500), Mono(500));
        for ms in (1_000..25_000).step_by(500) {
            d.observe(Observation::Silence, Mono(ms), Mono(ms));
        }
        for ms in [25_000, 25_500, 26_000] {
            d.observe(Observation::Answer, Mono(ms), Mono(ms));
        }
        for ms in [26_500, 27_000, 27_500, 28_000, 28_500] {
            d.observe(Observation::Silence, Mono(ms), Mono(ms));
        }
        assert_eq!(d.verdict(Mono(28_500)).colour, Colour::Red, "2 s of silence, at a rhythm of 500 ms");
    }

    #[test]
    fn red_takes_rise_answers_to_turn_green() {
        let mut d = steady();
        for i in 0..3 {
            d.observe(Observation::Wrong, Mono(10_500 + i * 500), Mono(10_500 + i * 500));
        }
        assert_eq!(d.verdict(Mono(12_000)).kind, Some(Kind::Unhealthy));
        d.observe(Observation::Answer, Mono(12_000), Mono(12_000));
        assert_eq!(d.verdict(Mono(12_000)).colour, Colour::Red);
        d.observe(Observation::Answer, Mono(12_500), Mono(12_500));
        assert_eq!(d.verdict(Mono(12_500)).colour, Colour::Green);
    }

    #[test]
    fn one_lost_probe_is_yellow_and_forgotten() {
        let mut d = steady();
        assert!(d.observe(Observation::Silence, Mono(10_500), Mono(10_500)));
        assert_eq!(d.verdict(Mono(10_500)).colour, Colour::Yellow);
        d.observe(Observation::Answer, Mono(11_000), Mono(11_000));
        assert_eq!(d.verdict(Mono(11_000)).colour, Colour::Green);
    }

    #[test]
    fn what_failed_before_a_blind_probe_does_not_count_on() {
        for blind in [false, true] {
            let mut d = steady();
            d.observe(Observation::Silence, Mono(10_500), Mono(11_000));
            if blind {
                assert!(d.blind(Mono(11_500)), "it is not silent any more, but unknown");
            }
            d.observe(Observation::Silence, Mono(12_500), Mono(13_000));
            d.observe(Observation::Silence, Mono(13_000), Mono(13_500));
            let colour = if blind { Colour::Yellow } else { Colour::Red };
            assert_eq!(d.verdict(Mono(13_500)).colour, colour, "blind: {blind}");
        }
        let mut green = steady();
        assert!(!green.blind(Mono(11_000)) && green.verdict(Mono(11_000)).colour == Colour::Green);
        // half a minute later it answers, and then no more: the gap was nobody's rhythm
        green.observe(Observation::Answer, Mono(40_000), Mono(40_000));
        for at in [40_500, 41_000, 41_500, 42_000, 42_500, 43_000] {
            green.observe(Observation::Silence, Mono(at), Mono(at + 500));
        }
        assert_eq!(green.verdict(Mono(43_500)).colour, Colour::Red);
    }

    #[test]
    fn a_sick_observer_abstains() {
        assert_eq!(Fitness { peers_missing: 1, peers: 2, ..Fitness::default() }.abstains(), None);
        assert!(Fitness { peers_missing: 2, peers: 2, ..Fitness::default() }.abstains().is_some());
        assert!(Fitness { timer_lag_ms: 251, ..Fitness::default() }.abstains().is_some());
        assert!(Fitness { fsync_ms: 501, ..Fitness::default() }.abstains().is_some());
        assert!(Fitness { no_room: true, ..Fitness::default() }.abstains().is_some());
    }
}
