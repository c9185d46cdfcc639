//! What the program itself proposes: foundings, joins, the flags of `serve`.

use zonekeeper_consensus::Consensus;
use zonekeeper_core::{
    Command, Outcome, Proposal,
    entry::{Cause, Read},
};

/// Writes a command under the name of a part of the program; its log index, or none when something that it read has
/// changed since. An error is for people, with the remedy.
pub(crate) async fn propose(
    consensus: &Consensus,
    author: &str,
    reads: Vec<Read>,
    command: Command,
) -> Result<Option<u64>, String> {
    let proposal = Proposal { reads, cause: Cause::Operator(author.into()), command };
    match consensus.propose(proposal).await.map_err(|e| e.to_string())? {
        (index, Outcome::Applied(_)) => Ok(Some(index)),
        (_, Outcome::Stale(_)) => Ok(None),
        (_, Outcome::Refused(why)) => Err(why),
    }
}
