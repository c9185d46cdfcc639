//! Deliberate bugs, each of which a test must catch by name (`tests/mutants.rs` of the workspace).
//!
//! They exist only in a test build: with the feature `mutant`, which nothing turns on by default and which a build
//! without debug assertions refuses. There the environment variable `ZONEKEEPER_MUTANT` names the one that is active.
//! Anywhere else [`on`] is a constant, and nothing of this is compiled.

#[cfg(all(feature = "mutant", not(debug_assertions)))]
compile_error!("the feature `mutant` plants bugs; it is for debug builds of tests alone");

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// `apply` takes the verdict of a row without counting its votes again.
    UncheckedEvidence,
    /// One red site moves.
    OneRedMoves,
    /// A sick observer votes like a healthy one.
    SickObserversVote,
    /// A site that failed comes back at once.
    NoHoldDown,
    /// Automation removes sites below the safety limit.
    NoSafetyLimit,
    /// A proposal is applied although what it read has changed.
    StaleReads,
    /// One missed probe is red.
    Impatience,
    /// Answers change and the serial does not.
    SerialStandsStill,
    /// A new incarnation keeps the epochs of the one before.
    OldEpochs,
    /// A damaged record is taken for whole.
    NoChecksum,
    /// Entries and votes are acknowledged before they are durable.
    NoFsync,
    /// The vote is acknowledged and not written.
    ForgottenVote,
    /// The published watermark is not written.
    ForgottenWatermark,
    /// A start answers from the newest snapshot, however old it is.
    StaleStart,
    /// What sled lost silently is not missed.
    BlindWitness,
    /// A voter whose disk was wiped takes part again.
    WipedVoter,
    /// A node that was cut off unseats the leader when it comes back.
    NoPreVote,
    /// A linearizable read is answered without asking a quorum.
    UnconfirmedReads,
    /// A node that has stopped answers linearizable reads from what it has.
    StoppedNodeAnswers,
    /// A node may speak in the name of another one.
    AnyName,
    /// Decisions of automation are taken from any node.
    AnyAutomation,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 21] = [
        Mutant::UncheckedEvidence,
        Mutant::OneRedMoves,
        Mutant::SickObserversVote,
        Mutant::NoHoldDown,
        Mutant::NoSafetyLimit,
        Mutant::StaleReads,
        Mutant::Impatience,
        Mutant::SerialStandsStill,
        Mutant::OldEpochs,
        Mutant::NoChecksum,
        Mutant::NoFsync,
        Mutant::ForgottenVote,
        Mutant::ForgottenWatermark,
        Mutant::StaleStart,
        Mutant::BlindWitness,
        Mutant::WipedVoter,
        Mutant::NoPreVote,
        Mutant::UnconfirmedReads,
        Mutant::StoppedNodeAnswers,
        Mutant::AnyName,
        Mutant::AnyAutomation,
    ];
}

/// Whether this bug is planted.
#[cfg(not(feature = "mutant"))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

/// Whether this bug is planted.
#[cfg(feature = "mutant")]
pub fn on(mutant: Mutant) -> bool {
    extern crate std;
    use alloc::{format, string::String};
    static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let active = ACTIVE.get_or_init(|| std::env::var("ZONEKEEPER_MUTANT").ok());
    active.as_ref().is_some_and(|name| *name == format!("{mutant:?}"))
}
