//! Who leads next when the leader's process has died, before its lease has run out.
//!
//! A process that dies takes its connections with it, and its host refuses new ones: the network says so within a round
//! trip, where Raft would wait for the lease and an election timeout. Each voter that is told so passes its word on to
//! the other voters, with the end of its log. Who holds the words of a majority knows that no quorum follows the leader
//! any more, and the one of them with the best log (the lowest id among equals) asks for votes at once, as if the leader
//! had handed over to it (Ongaro 2014, §4.2.3 and §3.10). The next ones wait their turn, so that a survivor that died
//! meanwhile is not waited for and the vote is not split.
//!
//! Nothing here is trusted for safety: an election is an election, with its term, its log check and its durable votes. A
//! majority that is told falsely (a firewall that resets and refuses) deposes a leader that lives, at the cost of one
//! election. A word is about one reign and lives as long as the lease that it gets around; one reign is ended once.

use crate::{id::NodeId, time::Mono};
use alloc::{collections::BTreeMap, vec::Vec};
use serde::{Deserialize, Serialize};

/// A leader in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Raft's term.
    pub term: u64,
    /// Who leads in it.
    pub leader: NodeId,
}

/// The end of a log, in the order in which Raft compares logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: u64,
    /// Its leader.
    pub leader: NodeId,
    /// Its index.
    pub index: u64,
}

/// A voter's word: the process of this leader is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Whose.
    pub reign: Reign,
    /// What the voter's own log ends with.
    pub log: LogEnd,
}

/// What a voter does about the words that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing, until there is another word.
    Nothing,
    /// Looks again at this moment: another voter goes first.
    Wait(Mono),
    /// Asks for votes now.
    Take,
}

/// The words that one voter holds.
#[derive(Debug, Clone)]
pub struct Takeover {
    node: NodeId,
    life_ms: u64,
    turn_ms: u64,
    words: BTreeMap<NodeId, (Mono, Word)>,
    ended: Option<Reign>,
}

impl Takeover {
    /// No words yet. Words live for `life_ms`: the leader's lease. Voters take turns of `turn_ms`: a round trip and a
    /// durable vote, so a heartbeat interval.
    pub fn new(node: NodeId, life_ms: u64, turn_ms: u64) -> Takeover {
        Takeover { node, life_ms, turn_ms, words: BTreeMap::new(), ended: None }
    }

    /// Takes in a word, this node's own or another voter's. Senders are members, so there are never many.
    pub fn hear(&mut self, from: NodeId, word: Word, now: Mono) {
        self.words.retain(|_, (at, _)| now.since(*at) < self.life_ms);
        self.words.insert(from, (now, word));
    }

    /// What to do at `now`, if this reign is the newest that this node knows of and these nodes vote. After
    /// [`Act::Take`] the reign is over as far as this node is concerned.
    pub fn act(&mut self, reign: Reign, voters: &[NodeId], now: Mono) -> Act {
        if self.ended == Some(reign) || reign.leader == self.node {
            return Act::Nothing;
        }
        let counts = |(from, (at, word)): &(&NodeId, &(Mono, Word))| {
            let alive = **from != reign.leader; // its own word would say the opposite
            alive && word.reign == reign && now.since(*at) < self.life_ms && voters.contains(from)
        };
        let words: Vec<_> = self.words.iter().filter(counts).collect();
        let Some((_, (_, own))) = words.iter().find(|(from, _)| **from == self.node) else {
            return Act::Nothing;
        };
        if words.len() * 2 <= voters.len() {
            return Act::Nothing;
        }
        let before = |(from, (_, word)): &&(&NodeId, &(Mono, Word))| {
            word.log > own.log || word.log == own.log && **from < self.node
        };
        let turn = words.iter().filter(before).count() as u64;
        let mut heard: Vec<Mono> = words.iter().map(|(_, (at, _))| *at).collect();
        heard.sort_unstable();
        let majority = heard[voters.len() / 2];
        let due = majority.plus(turn * self.turn_ms);
        if due > now {
            return Act::Wait(due);
        }
        self.ended = Some(reign);
        Act::Take
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Reign = Reign { term: 4, leader: 3 };

    fn word(index: u64) -> Word {
        Word { reign: DEAD, log: LogEnd { term: 4, leader: 3, index } }
    }

    fn of(node: NodeId, words: &[(NodeId, u64)]) -> Takeover {
        let mut takeover = Takeover::new(node, 250, 50);
        words.iter().for_each(|(from, index)| takeover.hear(*from, word(*index), Mono(1_000)));
        takeover
    }

    #[test]
    fn the_lowest_id_among_equal_logs_goes_first_and_the_other_after_a_turn() {
        let voters = [1, 2, 3];
        let words = [(1, 9), (2, 9)];
        assert_eq!(of(1, &words).act(DEAD, &voters, Mono(1_000)), Act::Take);
        assert_eq!(of(2, &words).act(DEAD, &voters, Mono(1_000)), Act::Wait(Mono(1_050)));
        assert_eq!(of(2, &words).act(DEAD, &voters, Mono(1_050)), Act::Take);
    }

    #[test]
    fn the_better_log_goes_first() {
        let words = [(1, 9), (2, 10)];
        assert_eq!(of(1, &words).act(DEAD, &[1, 2, 3], Mono(1_000)), Act::Wait(Mono(1_050)));
        assert_eq!(of(2, &words).act(DEAD, &[1, 2, 3], Mono(1_000)), Act::Take);
        let mut newer = of(1, &[(1, 9)]);
        let log = LogEnd { term: 5, leader: 2, index: 1 };
        newer.hear(2, Word { reign: DEAD, log }, Mono(1_000));
        assert_eq!(
            newer.act(DEAD, &[1, 2, 3], Mono(1_000)),
            Act::Wait(Mono(1_050)),
            "a newer term is better"
        );
    }

    #[test]
    fn a_majority_of_the_voters_must_have_lost_this_leader() {
        let five = [1, 2, 3, 4, 5];
        assert_eq!(of(1, &[(1, 9)]).act(DEAD, &[1, 2, 3], Mono(1_000)), Act::Nothing);
        assert_eq!(of(1, &[(1, 9), (2, 9)]).act(DEAD, &five, Mono(1_000)), Act::Nothing);
        assert_eq!(
            of(1, &[(1, 9), (2, 9), (9, 9)]).act(DEAD, &five, Mono(1_000)),
            Act::Nothing,
            "9 is no voter"
        );
        assert_eq!(of(1, &[(1, 9), (2, 9), (4, 9)]).act(DEAD, &five, Mono(1_000)), Act::Take);
        assert_eq!(
            of(1, &[(1, 9), (2, 9)]).act(DEAD, &[1, 2, 3, 4], Mono(1_000)),
            Act::Nothing,
            "two of four"
        );
    }

    #[test]
    fn who_has_not_lost_the_leader_itself_does_nothing() {
        assert_eq!(of(1, &[(2, 9), (4, 9), (5, 9)]).act(DEAD, &[1, 2, 3, 4, 5], Mono(1_000)), Act::Nothing);
        assert_eq!(
            of(1, &[(1, 9), (3, 9)]).act(DEAD, &[1, 2, 3], Mono(1_000)),
            Act::Nothing,
            "by its own word"
        );
        assert_eq!(
            of(3, &[(1, 9), (2, 9), (3, 9)]).act(DEAD, &[1, 2, 3], Mono(1_000)),
            Act::Nothing,
            "the leader"
        );
    }

    #[test]
    fn words_about_another_reign_and_old_words_do_not_count() {
        let words = [(1, 9), (2, 9)];
        let next = Reign { term: 5, leader: 2 };
        assert_eq!(of(1, &words).act(next, &[1, 2, 3], Mono(1_000)), Act::Nothing);
        assert_eq!(of(1, &words).act(DEAD, &[1, 2, 3], Mono(1_249)), Act::Take);
        assert_eq!(of(1, &words).act(DEAD, &[1, 2, 3], Mono(1_250)), Act::Nothing);
    }

    #[test]
    fn one_reign_is_ended_once() {
        let mut takeover = of(1, &[(1, 9), (2, 9)]);
        assert_eq!(takeover.act(DEAD, &[1, 2, 3], Mono(1_000)), Act::Take);
        takeover.hear(1, word(9), Mono(1_010));
        assert_eq!(takeover.act(DEAD, &[1, 2, 3], Mono(1_010)), Act::Nothing);
    }

    #[test]
    fn the_turn_counts_from_the_majority_and_not_from_the_first_word() {
        let mut takeover = of(4, &[(4, 9), (1, 9)]);
        takeover.hear(2, word(9), Mono(1_040));
        assert_eq!(
            takeover.act(DEAD, &[1, 2, 3, 4, 5], Mono(1_040)),
            Act::Wait(Mono(1_140)),
            "third in turn"
        );
    }
}
